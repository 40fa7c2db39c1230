"""The GPU engine in real Spark processes; CuPy is what tests/emulation has, the GPUs are made up."""

import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.clustering import cluster
from jobs.engine import Cluster, choose_engine
from jobs.errors import JobError, UsageError
from jobs.options import parse
from jobs.planning import Plan
from tests.reference import real_embeddings
from tests.spark.conftest import EMULATION, RunJob, write_clips, write_parquet
from tests.spark.test_commands import ROOT, submit
from udfs.adapters.gpu import Engine


@pytest.fixture
def real(tmp_path: Path) -> Path:
    ids, rows = real_embeddings()
    return write_parquet(tmp_path / "real", ids[:400], rows[:400])


def test_a_cluster_with_gpus_finds_the_same_as_one_machine_without(real: Path, tmp_path: Path, run_job: RunJob) -> None:
    """Spark assigns the GPUs that the discovery script finds, two tasks to each, and the job takes them unasked."""
    centroids = tmp_path / "centroids.npy"
    np.save(centroids, real_embeddings()[1][:400:40].astype(np.float32))
    flags = ("--centroids-path", str(centroids), "--eps-thresholds", "0.1", "0.05", "0.01", "0.001")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    (tools / "nvidia-smi").chmod(0o755)
    conf = {
        "spark.executor.memory": "1g",
        "spark.executorEnv.PYTHONPATH": EMULATION,
        "spark.executorEnv.KERNELS": "numpy",
        "spark.worker.resource.gpu.amount": 1,
        "spark.worker.resource.gpu.discoveryScript": ROOT / "conf" / "discover_gpus.sh",
        "spark.executor.resource.gpu.amount": 1,
        "spark.task.resource.gpu.amount": 0.5,
    }
    done = submit(
        "--input-embeddings-path", real, "--output-path", tmp_path / "cluster", *flags,
        submit="--master local-cluster[2,1,1024] " + " ".join(f"--conf {key}={value}" for key, value in conf.items()),
        PATH=f"{tools}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # spark-submit sends there what Python logs.
    assert "engine: gpu (Emulation, 1 GiB free, 2 tasks to a GPU)" in done.stdout
    stages = json.loads((tmp_path / "cluster" / "run.json").read_text())["stages"]
    assert {stages[name]["engine"] for name in ("placement", "matching")} == {"gpu"}
    alone = run_job(real, *flags, "--engine", "cpu")
    cluster = type(alone)(alone.job, tmp_path / "cluster")
    assert len(cluster.removed("0.1")) > 50
    pd.testing.assert_frame_equal(alone.table("dedup"), cluster.table("dedup"), check_exact=True)


def test_a_gpu_that_is_not_there_is_one_line_and_code_2(real: Path, tmp_path: Path) -> None:
    done = submit(
        "--input-embeddings-path", real, "--output-path", tmp_path / "out", "--engine", "gpu",
        command=[sys.executable, str(ROOT / "jobs/dedup.py")], PYSPARK_SUBMIT_ARGS="--master local[1] pyspark-shell",
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "semdedup" in line]
    assert "error: argument --engine: gpu is not possible here: no GPU with a driver and CuPy on this machine" in line
    assert not (tmp_path / "out").exists()


def test_gpus_that_no_task_gets_are_said_before_any_work(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Spark says it offers GPUs, but assigns none to a task."""
    monkeypatch.setattr("jobs.engine.look_at", lambda _: Cluster(False, 2, 1, 2, 1, 0.5, False))
    flags = ("--input-embeddings-path", "in", "--output-path", "out", "--centroids-path", "c")
    with pytest.raises(UsageError, match="gpu is not possible here: RuntimeError: --engine gpu: a task found no GPU"):
        choose_engine(spark, parse([*flags, "--engine", "gpu"]))
    with caplog.at_level("INFO", "jobs"):
        assert choose_engine(spark, parse(flags)) == Engine()
    assert "the GPUs are not used: argument --engine: gpu is not possible here" in caplog.text
    assert "engine: cpu (the GPUs are not used)" in caplog.text


@pytest.mark.parametrize("eps", ["0.1", "0.01"])
def test_two_passes_on_a_gpu_find_the_same(
    eps: str, real: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.clustering.make_plan", lambda *_: Plan(31, True, 0.5, 100.0))
    flags = ("--n-clusters", "6", "--eps-thresholds", eps, "--max-block-rows", "30")
    here = run_job(real, *flags, "--engine", "cpu", output="cpu")
    given = ("--centroids-path", str(here.output / "clustering" / "centroids.npy"))
    monkeypatch.setattr("jobs.dedup.choose_engine", lambda *_: Engine(gpu=True, share=0.5, scheduled=False))
    there = run_job(real, *flags, *given, output="gpu")
    pd.testing.assert_frame_equal(there.table("dedup"), here.table("dedup"), check_exact=True)
    records = there.job.records
    assert [records[name]["engine"] for name in ("placement", "screening", "matching")] == ["gpu"] * 3
    for name in ("placement", "screening"):
        for count in set(records[name]) & {"rows", "guests", "placements", "pairs_bounded"}:
            assert records[name][count] == here.job.records[name][count]


class KMeans:
    """Stands in for that of spark-rapids-ml, with its arguments; the centroids are the first rows it is given."""

    asked: dict[str, object]
    shares: list[list[np.ndarray]]
    fails = False

    def __init__(self, *, k: int, seed: int, n_init: int, num_workers: int, **more: object) -> None:
        assert set(more) == {"featuresCol", "initMode", "maxIter"}
        assert (more["featuresCol"], more["initMode"]) == ("features", "k-means||")
        KMeans.asked = {"k": k, "seed": seed, "n_init": n_init, "num_workers": num_workers}

    def fit(self, rows: DataFrame) -> types.SimpleNamespace:
        assert rows.schema.simpleString() == "struct<features:array<float>>"
        KMeans.shares = [[np.array(row.features) for row in share] for share in rows.rdd.glom().collect()]
        if self.fails:
            rows.rdd.barrier().mapPartitions(lambda _: 1 / 0).collect()  # type: ignore[arg-type,return-value]
        first = [row for share in KMeans.shares for row in share][: int(str(KMeans.asked["k"]))]
        return types.SimpleNamespace(cluster_centers_=[row.tolist() for row in first])


GPU = Engine(gpu=True)


@pytest.fixture
def two_gpus_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the stand-in; what follows training runs on the CPU."""
    module = types.ModuleType("spark_rapids_ml.clustering")
    module.KMeans = KMeans  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spark_rapids_ml", types.ModuleType("spark_rapids_ml"))
    monkeypatch.setitem(sys.modules, "spark_rapids_ml.clustering", module)
    monkeypatch.setattr("jobs.dedup.choose_engine", lambda *_: Engine())
    monkeypatch.setattr("jobs.dedup.cluster", lambda spark, options, job, _: cluster(spark, options, job, GPU))
    monkeypatch.setattr("jobs.clustering.kmeans_workers", lambda *_: 2)


@pytest.mark.usefixtures("two_gpus_train")
@pytest.mark.parametrize("asked", ["auto", "300", "all"])
def test_kmeans_on_gpus_is_given_unit_rows_in_even_shares(asked: str, tmp_path: Path, run_job: RunJob) -> None:
    ids, rows = real_embeddings()
    source = write_clips(tmp_path / "clips", dict(zip(ids[:900], rows[:900] * 3, strict=True)))
    result = run_job(source, "--n-clusters", "3", "--kmeans-sample-rows", asked, "--seed", "5")
    assert KMeans.asked == {"k": 3, "seed": 5, "n_init": 1, "num_workers": 2}
    wanted = {"auto": 768, "300": 300, "all": 900}[asked]
    sizes = [len(share) for share in KMeans.shares]
    assert len(sizes) == 2
    assert sum(sizes) == pytest.approx(wanted, rel=0.15)
    assert max(sizes) - min(sizes) <= 4
    given = np.concatenate(KMeans.shares)
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-6)
    record = result.job.records["clustering"]
    assert (record["engine"], record["kmeans_workers"], record["clusters"]) == ("gpu", 2, 3)
    np.testing.assert_array_equal(np.load(result.output / "clustering/centroids.npy"), given[:3].astype(np.float32))


@pytest.mark.usefixtures("two_gpus_train")
def test_training_that_fails_is_one_line(tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, rows = real_embeddings()
    monkeypatch.setattr(KMeans, "fails", True)
    source = write_clips(tmp_path / "clips", dict(zip(ids[:300], rows, strict=False)))
    with pytest.raises(JobError, match="k-means on 2 GPUs failed: ZeroDivisionError: division by zero; fewer"):
        run_job(source, "--n-clusters", "3")
