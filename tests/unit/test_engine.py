import dataclasses
import sys
import types

import pytest

from jobs.engine import Cluster, kmeans_workers, lacking, rows_needed, workers_for
from jobs.errors import UsageError
from jobs.options import parse

PATHS = ("--input-embeddings-path", "in", "--output-path", "out")
YARN = Cluster(local=False, cores=32, executors=4, executor_cores=8, executor_gpus=1, task_gpus=0.125, dynamic=False)
LOCAL = Cluster(local=True, cores=16, executors=0, executor_cores=0, executor_gpus=1, task_gpus=0, dynamic=False)


def changed(cluster: Cluster, **values: object) -> Cluster:
    return dataclasses.replace(cluster, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (changed(LOCAL, executor_gpus=0), "no GPU with a driver and CuPy on this machine"),
        (changed(YARN, executor_gpus=0), "set spark.executor.resource.gpu.amount"),
        (changed(YARN, task_gpus=0), "spark.task.resource.gpu.amount is not set"),
        (changed(YARN, task_gpus=2), "spark.task.resource.gpu.amount is 2"),
    ],
)
def test_what_is_lacking_is_said_with_what_to_set(cluster: Cluster, message: str) -> None:
    assert message in (lacking(cluster, trains=False) or "")


def test_spark_rapids_ml_is_asked_for_only_where_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spark_rapids_ml", types.ModuleType("spark_rapids_ml"))
    monkeypatch.setitem(sys.modules, "spark_rapids_ml.clustering", None)  # cannot be imported
    assert "needs spark-rapids-ml, which the driver's Python cannot import (" in (lacking(YARN, trains=True) or "")
    assert lacking(YARN, trains=False) is None
    assert lacking(LOCAL, trains=False) is None
    monkeypatch.setitem(sys.modules, "spark_rapids_ml.clustering", types.ModuleType("spark_rapids_ml.clustering"))
    assert lacking(YARN, trains=True) is None


@pytest.mark.parametrize(
    ("cluster", "flags", "message"),
    [
        (changed(YARN, dynamic=True), (), "spark.dynamicAllocation.enabled"),
        (changed(YARN, executor_gpus=2), (), "use executors of one GPU"),
        (changed(YARN, executor_cores=0), (), "spark.executor.cores"),
        (changed(YARN, stage_level=False), (), "use Spark 3.5.1 or later"),
        (YARN, ("--kmeans-workers", "5"), "argument --kmeans-workers: 5 is more than the 4 GPUs"),
        (LOCAL, ("--kmeans-workers", "2"), "argument --kmeans-workers: 2 is more than the 1 GPUs"),
    ],
)
def test_training_that_spark_would_not_start_is_refused(cluster: Cluster, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kmeans_workers(parse([*PATHS, *flags]), cluster)


def test_all_gpus_train_unless_told_otherwise_or_rows_are_few() -> None:
    assert kmeans_workers(parse(PATHS), YARN) == 4
    assert kmeans_workers(parse(PATHS), changed(YARN, executor_gpus=2, task_gpus=1.0)) == 8
    assert kmeans_workers(parse([*PATHS, "--kmeans-workers", "3"]), YARN) == 3
    assert kmeans_workers(parse(PATHS), changed(LOCAL, executor_gpus=2)) == 2
    assert workers_for(256 * 1000, 1000, 8) == 8
    assert workers_for(5000, 1000, 8) == 3
    for rows in (1300, 5000, 7000):
        assert rows // workers_for(rows, 1000, 8) >= rows_needed(1000)
    assert workers_for(10, 1000, 8) == 1


def test_the_share_of_a_task() -> None:
    assert YARN.task_share == 0.125
    assert LOCAL.task_share == 1 / 16
    assert changed(YARN, task_gpus=1.0).task_share == 1.0
    assert changed(LOCAL, cores=2, executor_gpus=4).task_share == 1.0
