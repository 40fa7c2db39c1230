"""k-means on a sample in the driver's memory."""

import faiss
import numpy as np

from udfs.vectors import Matrix, first_of_equal_rows, squared_norms, unit_rows

# Clusters only group the work; more iterations cost more than they save.
_SEED_ITERATIONS = 5
_ITERATIONS = 5
_SEED_ROWS, _LEAST_SEED_ROWS = 20, 5000  # per centroid and in all, that the seeds are sought among


def train(sample: Matrix, k: int, seed: int) -> Matrix:
    """Centroids (k', d) float32 of the sample's (n, d) rows, each taken as a unit vector.

    k' is k, or the number of distinct rows where that is smaller. The first rows are clustered from a seeding by
    k-means++ (Arthur and Vassilvitskii, 2007), for small k the best of several, and their centroids are where all
    rows start from: seeding passes over its rows once for each centroid. The same rows in the same order give the
    same centroids.
    """
    x_sq = squared_norms(sample)
    unit = unit_rows(sample, x_sq)
    distinct = np.flatnonzero(first_of_equal_rows(sample, x_sq) == np.arange(len(sample)))
    if len(distinct) <= k:
        return unit[distinct]
    params = faiss.ClusteringParameters()
    params.niter = _SEED_ITERATIONS
    params.nredo = max(1, 200 // k)  # one blob without a seed matters when there are few; then tries are cheap
    params.seed = seed
    params.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    params.min_points_per_centroid = 1  # the caller chose the sample's size
    params.max_points_per_centroid = len(unit)
    start = _cluster(unit[distinct[: max(_SEED_ROWS * k, _LEAST_SEED_ROWS)]], k, params)
    params.niter, params.nredo = _ITERATIONS, 1
    return _cluster(unit, k, params, start)


def _cluster(unit: Matrix, k: int, params: faiss.ClusteringParameters, start: Matrix | None = None) -> Matrix:
    clustering = faiss.Clustering(unit.shape[1], k, params)
    if start is not None:
        faiss.copy_array_to_vector(start.ravel(), clustering.centroids)
    clustering.train(unit, faiss.IndexFlatL2(unit.shape[1]))
    return faiss.vector_to_array(clustering.centroids).reshape(k, -1).astype(np.float32)
