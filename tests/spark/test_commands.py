"""The job as a user starts it: real processes, on one machine and on a small cluster."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.session import spark_session
from tests.reference import real_embeddings
from tests.spark.conftest import CONF, RunJob, write_clips

ROOT = Path(__file__).parents[2]


def submit(*args: object, command: list[str] | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = command or ["spark-submit", *(env.pop("submit", "")).split(), str(ROOT / "jobs/dedup.py")]
    return subprocess.run(  # noqa: S603
        [*command, *map(str, args)],
        cwd="/",
        env={**os.environ, "SPARK_CONF_DIR": str(CONF), "PYSPARK_PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    ids, rows = real_embeddings()
    return write_clips(tmp_path / "iv2_embd", {i: row[None] for i, row in zip(ids[:300], rows, strict=False)})


def test_spark_submit_on_a_local_cluster_agrees_with_one_machine(clips: Path, tmp_path: Path, run_job: RunJob) -> None:
    """Two workers with an executor each, whose Python has the libraries but not our packages: the job ships them."""
    flags = ("--n-clusters", "5", "--files-per-partition", "100")
    bare = tmp_path / "bare-python"
    libraries = Path(np.__file__).parents[1]  # without site, the development install there is not found
    bare.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{libraries}" exec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = submit(
        "--input-embeddings-path", clips, "--output-path", tmp_path / "cluster", *flags,
        submit="--master local-cluster[2,1,1024] --conf spark.executor.memory=1g",
        PYSPARK_PYTHON=str(bare),
        PYSPARK_DRIVER_PYTHON=sys.executable,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "300 clips of dimension 384: 0 rejected, 5 clusters" in done.stdout
    alone = run_job(clips, *flags)
    cluster = type(alone)(alone.job, tmp_path / "cluster")
    pd.testing.assert_frame_equal(alone.table("dedup"), cluster.table("dedup"), check_exact=True)


def test_the_session_of_a_notebook_is_used_and_left_running(spark: SparkSession) -> None:
    for _ in range(2):  # a cell is often run twice
        with spark_session() as used:
            assert used is spark
            assert used.range(3).count() == 3
    assert spark.range(3).count() == 3


def test_run_sh_and_an_error_in_one_line(tmp_path: Path) -> None:
    done = submit(
        "--input-embeddings-path", tmp_path / "nowhere", "--output-path", tmp_path / "out",
        command=[str(ROOT / "scripts/run.sh")],
        SPARK=os.environ.get("SPARK", "4.1"),
    )  # fmt: skip
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert errors == [f"semdedup: error: --input-embeddings-path {tmp_path}/nowhere does not exist: "
                      "check the path, its scheme and your access to it"]  # fmt: skip
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_parquet_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.parquet").write_bytes(b"this is no Parquet file at all")
    done = submit("--input-embeddings-path", tmp_path / "in", "--output-path", tmp_path / "out")
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]  # spark-submit sends all that Python writes to its own stdout
    assert last.startswith("semdedup: error: ")
    assert "x.parquet" in last
    assert "Traceback" not in done.stdout


def test_the_sample_clips_are_what_they_say(tmp_path: Path) -> None:
    make = [sys.executable, str(ROOT / "scripts/make_sample_clips.py")]
    done = submit(tmp_path / "sample", "--clips", "400", "--duplicates", "50", "--layout", "parquet", command=make)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "sample/iv2_embd_parquet").set_index("id")["embedding"]
    x = np.stack(table.to_list()).astype(float)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = pd.DataFrame(x @ x.T, index=table.index, columns=table.index)
    planted = pd.read_parquet(tmp_path / "sample/planted.parquet")
    assert len(planted) == 50
    for row in planted.to_dict("records"):
        assert cosine[row["id"]][row["original"]] == pytest.approx(row["cosine"], abs=1e-6)
    above = np.argwhere(np.triu(cosine.to_numpy(), 1) >= 0.97 - 1e-6)
    assert len(above) == (planted["cosine"] >= 0.97).sum()  # nothing alike but what was planted
