"""k-means on a sample in the driver's memory."""

import faiss
import numpy as np

from udfs.vectors import Matrix, first_of_equal_rows, squared_norms, unit_rows

_ITERATIONS = 10  # clusters only group the work; more iterations cost more than they save


def train(sample: Matrix, k: int, seed: int) -> Matrix:
    """Centroids (k', d) float32 of the sample's (n, d) rows, each taken as a unit vector.

    k' is k, or the number of distinct rows where that is smaller. Seeded by k-means++ (Arthur and
    Vassilvitskii, 2007), for small k the best of several tries. The same rows in the same order give the same
    centroids.
    """
    unit = unit_rows(sample, squared_norms(sample))
    distinct = np.flatnonzero(first_of_equal_rows(sample) == np.arange(len(sample)))
    if len(distinct) <= k:
        return unit[distinct]
    params = faiss.ClusteringParameters()
    params.niter = _ITERATIONS
    params.nredo = max(1, 200 // k)  # one blob without a seed matters when there are few; then tries are cheap
    params.seed = seed
    params.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    params.min_points_per_centroid = 1  # the caller chose the sample's size
    params.max_points_per_centroid = len(unit)
    clustering = faiss.Clustering(unit.shape[1], k, params)
    clustering.train(unit, faiss.IndexFlatL2(unit.shape[1]))
    return faiss.vector_to_array(clustering.centroids).reshape(k, -1).astype(np.float32)
