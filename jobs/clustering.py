"""Cluster: centroids from a sample of the embeddings, or from a file."""

import dataclasses
import io
import logging

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from jobs.embeddings import drawn, sampled
from jobs.engine import kmeans_workers, look_at, rows_needed, workers_for
from jobs.errors import JobError
from jobs.gpu_kmeans import train_on_gpus
from jobs.kmeans import train
from jobs.options import Options, eps_text
from jobs.planning import LOOK_AT, auto_clusters, look_rows, make_plan, training_rows
from jobs.stages import Record, Run
from udfs.adapters.batches import task
from udfs.adapters.gpu import Engine
from udfs.adapters.reading import unit_features
from udfs.cells import Cells, Placement
from udfs.sketches import principal_basis
from udfs.vectors import Doubles, Matrix, first_of_equal_rows, squared_norms, unit_rows, unpack

log = logging.getLogger(__name__)


def cluster(spark: SparkSession, options: Options, run: Run, engine: Engine) -> Record:
    """Write clustering/centroids.npy and the basis of the sketches; returns how they came about, and the plan."""
    if options.centroids_path:
        dim = run.records["embeddings"]["dim"]
        centroids = _load_centroids(run, options.centroids_path, dim)
        sample, how = _sample(spark, options, run, 0, look_rows(dim)), {"sample_rows": 0}
    else:
        centroids, sample, how = _train(spark, options, run, engine)
    content = _to_npy(centroids)
    run.storage.write(run.path("clustering", "centroids.npy"), content)
    return {
        **how,
        "clusters": len(centroids),
        **_plan(sample, centroids, options, run),
        "bytes_written": len(content),
    }


def _train(spark: SparkSession, options: Options, run: Run, engine: Engine) -> tuple[Matrix, Matrix, Record]:
    """Centroids, other clips to estimate from, which k-means fits less well than those it saw, and how it was done."""
    dim, rows = run.records["embeddings"]["dim"], run.records["embeddings"]["accepted"]
    k = options.n_clusters or auto_clusters(rows, dim)
    training, others = training_rows(rows, k, options, dim, engine.gpu), look_rows(dim)
    if engine.gpu and k > 1 and training >= rows_needed(k):
        workers = workers_for(training, k, kmeans_workers(options, look_at(spark)))
        with drawn(spark, options, run, 0, training) as some:
            features = some.mapInArrow(task(unit_features(dim)), "features array<float>")
            centroids = train_on_gpus(features, k, options.seed, workers)
        seen = max(0, min(training, rows - others))
        how = {"engine": engine.name, "kmeans_workers": workers, "sample_rows": training}
        return centroids, _sample(spark, options, run, seen, seen + others), how
    if options.kmeans_sample_rows != "auto" and training < training_rows(rows, k, options, dim, gpu=True):
        log.warning(
            "--kmeans-sample-rows %s: on the CPU k-means trains on the %d clips that its 512 MiB on the driver hold",
            options.kmeans_sample_rows, training,
        )  # fmt: skip
    sample = _sample(spark, options, run, 0, training + others)
    centroids = train(sample[:training], k, options.seed)
    if len(centroids) < k and options.n_clusters:
        log.warning(
            "--n-clusters %d is more than the %d distinct clips sampled: using %d clusters",
            options.n_clusters, len(centroids), len(centroids),
        )  # fmt: skip
    return centroids, sample[-LOOK_AT:], {"engine": "cpu", "sample_rows": min(training, len(sample))}


def _sample(spark: SparkSession, options: Options, run: Run, first: int, stop: int) -> Matrix:
    packed = sampled(spark, options, run, first, stop)["embedding"]
    return unpack(pa.array(packed, pa.large_binary()), run.records["embeddings"]["dim"])


def _plan(sample: Matrix, centroids: Matrix, options: Options, run: Run) -> Record:
    """Write the basis of the sketches; returns the plan of the work, and says it."""
    x_sq = squared_norms(sample)
    distinct = np.flatnonzero(first_of_equal_rows(sample, x_sq) == np.arange(len(sample)))
    rows = max(1, run.records["embeddings"]["accepted"] * len(distinct) // len(sample))
    sample, unit = sample[distinct], unit_rows(sample[distinct], x_sq[distinct])  # copies cost next to nothing
    placed = _place_sample(sample, centroids, options)
    copies = placed.guests_per_row
    basis = principal_basis(unit)
    plan = make_plan(unit, placed, basis, rows, options.min_score, options.seed)
    run.storage.write(run.work("basis.npy"), _to_npy(basis[:, : plan.screen_coordinates]))
    log.info(
        "%d clusters; about %.2f guest copies of each clip, %.0f pairs a clip; %s",
        len(centroids), copies, plan.pairs_per_clip,
        f"{plan.screen_coordinates} screen coordinates, about {plan.surviving_fraction:.0%} of the clips survive"
        if plan.two_passes else "matching all clips in one pass",
    )  # fmt: skip
    return {"estimated_guest_copies": round(copies, 4), **dataclasses.asdict(plan)}


def _place_sample(sample: Matrix, centroids: Matrix, options: Options) -> Placement:
    """Where the sample belongs.

    Raises JobError when there are more guests than --max-guest-copies, saying what would take fewer.
    """
    eps = options.guest_eps
    placed = Cells(centroids, eps).place(sample, near=True)
    copies = placed.guests_per_row
    if eps is None or copies <= options.max_guest_copies:
        return placed

    def few_enough(eps: float, centroids: Matrix) -> bool:
        return Cells(centroids, eps).place(sample[:2000]).guests_per_row <= options.max_guest_copies

    smaller_eps = next((e for e in (eps / 2**n for n in range(1, 64)) if few_enough(e, centroids)), None)
    fewer = max(1, len(centroids) // 2)
    while not few_enough(eps, train(sample, fewer, options.seed)):
        fewer //= 2  # one cluster has no guests
    advice = [] if smaller_eps is None else [f"--eps-thresholds up to {smaller_eps:.2g}"]
    raise JobError(
        f"--max-guest-copies {options.max_guest_copies:g}: to find all pairs at eps {eps_text(eps)} among "
        f"{len(centroids)} clusters, each clip would be copied about {copies:.2g} times; "
        f"{', '.join([*advice, f'--n-clusters {fewer}'])} or --match-scope cluster would stay below"
    )


def read_basis(run: Run) -> Doubles:
    """The basis of the sketches, (d, m) float64."""
    basis: Doubles = np.load(io.BytesIO(run.storage.read(run.work("basis.npy"))), allow_pickle=False)
    return basis


def read_centroids(run: Run) -> Matrix:
    """The centroids of this run, (k, d) float32."""
    content = run.storage.read(run.path("clustering", "centroids.npy"))
    centroids: Matrix = np.load(io.BytesIO(content), allow_pickle=False)
    return centroids


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


def _to_npy(array: Matrix | Doubles) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
