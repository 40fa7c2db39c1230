"""k-means on the executors' GPUs, by spark-rapids-ml; the only user of it."""

import numpy as np
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from jobs.errors import JobError, one_line
from jobs.storage import java_message
from udfs.vectors import Matrix

_ITERATIONS = 20


def train_on_gpus(rows: DataFrame, k: int, seed: int, workers: int) -> Matrix:
    """Centroids (k, d) float32 of unit rows in a column `features` of array<float>, at least k for each worker.

    Needs k >= 2. The sums of several GPUs are added in any order, so the last bits may differ from run to run.
    Raises JobError when it fails, as when a GPU has too little memory, or when what comes back is not finite.
    """
    from spark_rapids_ml.clustering import KMeans

    # Even shares, as cuVS weighs the rows of each worker by how many it has.
    shares = rows.select("features").repartition(workers).persist()
    try:
        # The seed's default would differ from run to run; n_init is one by name only, and ten for initMode random.
        kmeans = KMeans(
            featuresCol="features", k=k, seed=seed, maxIter=_ITERATIONS, initMode="k-means||", n_init=1,
            num_workers=workers,
        )  # fmt: skip
        centroids: Matrix = np.asarray(kmeans.fit(shares).cluster_centers_, np.float32)
    except (Py4JJavaError, PySparkException) as e:
        message = java_message(e) if isinstance(e, Py4JJavaError) else one_line(str(e))
        raise JobError(
            f"--n-clusters {k}: k-means on {workers} GPUs failed: {message}; fewer --kmeans-sample-rows need less "
            "memory, and --centroids-path needs no training"
        ) from None
    finally:
        shares.unpersist()
    if not np.isfinite(centroids).all():
        raise JobError(f"--n-clusters {k}: k-means on the GPU returned centroids that are not finite: choose another k")
    return np.ascontiguousarray(centroids)
