"""Cluster: centroids from a sample of the embeddings, or from a file."""

import io
import logging

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.embeddings import accepted
from jobs.errors import JobError
from jobs.kmeans import train
from jobs.options import Options
from jobs.stages import Record, Run
from udfs.vectors import Matrix, unpack

log = logging.getLogger(__name__)

_SAMPLE_BYTES = 512 << 20  # of float32 on the driver: half of spark.driver.maxResultSize's default


def cluster(options: Options, run: Run) -> Record:
    """Write clustering/centroids.npy; returns how many there are and how they came about."""
    dim, rows = run.records["embeddings"]["dim"], run.records["embeddings"]["accepted"]
    record: Record = {}
    if options.centroids_path:
        centroids = _load_centroids(run, options.centroids_path, dim)
    else:
        fits = _SAMPLE_BYTES // (4 * dim)
        wanted = min(options.n_clusters * options.sample_rows_per_cluster, max(fits, options.n_clusters))
        sample = _sample(accepted(run), rows, wanted, options.seed, dim)
        centroids = train(sample, options.n_clusters, options.seed)
        record["sample_rows"] = len(sample)
        if len(centroids) < options.n_clusters:
            log.warning(
                "--n-clusters %d is more than the %d distinct clips sampled: using %d clusters",
                options.n_clusters, len(centroids), len(centroids),
            )  # fmt: skip
    content = _to_npy(centroids)
    run.storage.write(run.path("clustering", "centroids.npy"), content)
    return {"clusters": len(centroids), **record, "bytes_written": len(content)}


def read_centroids(run: Run) -> Matrix:
    """The centroids of this run, (k, d) float32."""
    content = run.storage.read(run.path("clustering", "centroids.npy"))
    centroids: Matrix = np.load(io.BytesIO(content), allow_pickle=False)
    return centroids


def _sample(clips: DataFrame, rows: int, wanted: int, seed: int, dim: int) -> Matrix:
    """About `wanted` embeddings (n, dim), chosen and ordered by a hash of the id: however the rows lie."""
    drawn = clips.select("id", "embedding", F.xxhash64(F.lit(seed), "id").alias("draw"))
    if wanted < rows:
        threshold = int(-(2**63) + 2**64 * (wanted / rows))
        drawn = drawn.filter(F.col("draw") < F.lit(threshold))
    collected = drawn.toPandas().sort_values(["draw", "id"])
    return unpack(pa.array(collected["embedding"], pa.large_binary()), dim)


def _load_centroids(run: Run, uri: str, dim: int) -> Matrix:
    flag = f"--centroids-path {uri}"
    if not run.storage.is_file(uri):
        raise JobError(f"{flag} is no file: give the .npy that a run wrote to clustering/")
    try:
        centroids = np.load(io.BytesIO(run.storage.read(uri)), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise JobError(f"{flag} is not an .npy file") from None
    if centroids.ndim != 2 or centroids.dtype.kind != "f" or len(centroids) == 0 or centroids.shape[1] != dim:
        raise JobError(
            f"{flag} holds {centroids.dtype} of shape {centroids.shape}; it must be floats, "
            f"clusters x {dim}, the dimension of the embeddings"
        )
    centroids = centroids.astype(np.float32)
    if not np.isfinite(centroids).all():
        raise JobError(f"{flag} holds values that are not finite float32 numbers")
    return np.ascontiguousarray(centroids)


def _to_npy(array: Matrix) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
