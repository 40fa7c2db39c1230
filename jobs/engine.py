"""The engine of a run: the CPU, or the GPUs that Spark offers, and why."""

import dataclasses
import importlib
import logging
import math
import re
from collections.abc import Iterator

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.errors import UsageError, one_line
from jobs.options import Options
from udfs.adapters.batches import Batches, record_batch, task
from udfs.adapters.gpu import Engine
from udfs.device import gpu_count, gpu_name

log = logging.getLogger(__name__)

_EXECUTOR_GPUS, _TASK_GPUS = "spark.executor.resource.gpu.amount", "spark.task.resource.gpu.amount"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What the session's settings say of its GPUs."""

    local: bool  # the driver is the executor; Spark does not assign GPUs then
    cores: int  # tasks at a time, in all
    executors: int  # 0: not said
    executor_cores: int  # 0: not said
    executor_gpus: int
    task_gpus: float
    dynamic: bool  # executors come and go
    stage_level: bool = True  # a stage may ask for other resources than the rest

    @property
    def task_share(self) -> float:
        """The share of a GPU that each task gets."""
        return min(1.0, self.executor_gpus / self.cores if self.local else self.task_gpus)

    @property
    def gpus(self) -> int:
        """How many GPUs there are in all, by the settings."""
        return self.executor_gpus * max(self.executors, 1)


def choose_engine(spark: SparkSession, options: Options) -> Engine:
    """The engine that --engine asks for; with `auto` the GPU when Spark offers one that works. Says which and why.

    Raises UsageError when --engine gpu asks for what is not there, or for a GPU run that could not train its clusters.
    """
    if options.engine == "cpu":
        return _chosen(Engine(), "as --engine says")
    cluster = look_at(spark)
    missing = lacking(cluster, trains=options.centroids_path is None)
    try:
        if missing:
            raise UsageError(f"argument --engine: gpu is not possible here: {missing}")
        if not options.centroids_path:
            kmeans_workers(options, cluster)  # fails now rather than after the first scan
        engine = Engine(gpu=True, share=cluster.task_share, scheduled=not cluster.local)
        found = _probe(spark, engine)
    except UsageError as e:
        if options.engine == "gpu":
            raise
        if cluster.executor_gpus:  # someone meant to use them
            log.warning("the GPUs are not used: %s", e)
        return _chosen(Engine(), missing or "the GPUs are not used")
    tasks = round(1 / engine.share)
    return _chosen(engine, f"{found}, {tasks} task{'s' if tasks > 1 else ''} to a GPU")


def _chosen(engine: Engine, why: str) -> Engine:
    log.info("engine: %s (%s)", engine.name, why)
    return engine


def look_at(spark: SparkSession) -> Cluster:
    """The session's GPUs."""
    conf, context = spark.sparkContext.getConf(), spark.sparkContext
    local = bool(re.match(r"local(\[|$)", context.master or ""))

    def number(key: str) -> float:
        return float(conf.get(key, "0") or 0)

    return Cluster(
        local=local,
        cores=context.defaultParallelism,
        executors=int(number("spark.executor.instances")),
        executor_cores=int(number("spark.executor.cores")),
        executor_gpus=gpu_count() if local else int(number(_EXECUTOR_GPUS)),
        task_gpus=number(_TASK_GPUS),
        dynamic=conf.get("spark.dynamicAllocation.enabled", "false") == "true",
        stage_level=spark.version.split(".")[:3] != ["3", "5", "0"],  # from 3.5.1 on, except on standalone clusters
    )


def lacking(cluster: Cluster, trains: bool) -> str | None:
    """What a GPU run would lack, and what to do; None when nothing. trains: k-means too is to run on the GPUs."""
    if cluster.executor_gpus == 0:
        return (
            "no GPU with a driver and CuPy on this machine"
            if cluster.local
            else f"Spark offers no GPU: set {_EXECUTOR_GPUS}, {_TASK_GPUS} and a discovery script, see docs/gpu.md"
        )
    if not cluster.local and cluster.task_gpus == 0:
        return f"{_TASK_GPUS} is not set, so tasks would get no GPU: set it to 1 / the cores of an executor, as 0.125"
    if not cluster.local and cluster.task_gpus > 1:
        return f"{_TASK_GPUS} is {cluster.task_gpus:g}: a task uses one GPU at most, so set it to 1 or a fraction"
    if trains:
        try:
            importlib.import_module("spark_rapids_ml.clustering")
        except ImportError as e:
            return (
                f"k-means on GPUs needs spark-rapids-ml, which the driver's Python cannot import ({e}): "
                "pip install 'spark-semdedup[gpu-cu12]' (or gpu-cu13), or give --centroids-path"
            )
    return None


def kmeans_workers(options: Options, cluster: Cluster) -> int:
    """How many GPUs train k-means: one barrier task on each.

    Raises UsageError where Spark could not start them, or would put two on one GPU.
    """
    if cluster.dynamic:
        raise UsageError(
            "argument --engine: gpu trains k-means in a barrier stage, which Spark refuses while "
            "spark.dynamicAllocation.enabled is true: set it to false and spark.executor.instances to a number, "
            "or give --centroids-path"
        )
    if not cluster.local and cluster.task_gpus < 1:
        # Then a barrier task gets a GPU of its own by stage-level scheduling, under the conditions of spark-rapids-ml.
        if cluster.executor_gpus > 1:
            raise UsageError(
                f"argument --engine: gpu trains k-means with one task on each GPU, but {_EXECUTOR_GPUS} is "
                f"{cluster.executor_gpus} and {_TASK_GPUS} is {cluster.task_gpus:g}: use executors of one GPU, "
                f"or set {_TASK_GPUS} to 1"
            )
        if not cluster.stage_level:
            raise UsageError(
                f"argument --engine: gpu trains k-means with one task on each GPU, which Spark 3.5.0 gives only "
                f"when {_TASK_GPUS} is 1: set it so, or use Spark 3.5.1 or later"
            )
        if cluster.executor_cores == 0:
            raise UsageError(
                "argument --engine: gpu trains k-means with one task on each GPU, for which Spark must know "
                "spark.executor.cores: set it"
            )
    if options.kmeans_workers and options.kmeans_workers > cluster.gpus:
        raise UsageError(
            f"argument --kmeans-workers: {options.kmeans_workers} is more than the {cluster.gpus} GPUs of "
            f"{max(cluster.executors, 1)} executors with {cluster.executor_gpus} each: give fewer, or set "
            "spark.executor.instances"
        )
    return options.kmeans_workers or cluster.gpus


def rows_needed(clusters: int) -> int:
    """The rows that each worker of k-means is to have: cuML asks for one for each cluster, and shares are uneven."""
    return math.ceil(1.2 * clusters) + 100


def workers_for(rows: int, clusters: int, most: int) -> int:
    """So few workers that there are rows enough for each."""
    return max(1, min(most, rows // rows_needed(clusters)))


def _probe(spark: SparkSession, engine: Engine) -> str:
    """What GPU a task gets; raises UsageError when it gets none, or cannot use it."""

    def look(_batches: Batches) -> Iterator[pa.RecordBatch]:
        engine.attach()
        yield record_batch(name=pa.array([gpu_name()]))

    try:
        return str(spark.range(1, numPartitions=1).mapInArrow(task(look), "name string").collect()[0][0])
    except PySparkException as e:
        raise UsageError(f"argument --engine: gpu is not possible here: {one_line(str(e))}") from None
