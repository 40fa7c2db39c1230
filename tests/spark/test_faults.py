"""What dies, fills up or comes twice: the run goes on or is started again, and ends the same."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from jobs.errors import advice
from jobs.storage import java_message
from tests.reference import real_embeddings
from tests.spark import chaos
from tests.spark.conftest import CONF, RunJob, write_clips

ROOT = Path(__file__).parents[2]
SECRET = "planted-8f2c61d0"  # noqa: S105


def test_a_disturbed_run_ends_as_an_undisturbed_one(tmp_path: Path, run_job: RunJob) -> None:
    """A short form of `python -m tests.spark.chaos`."""
    source = chaos.table(tmp_path)
    run_job(source, *chaos.FLAGS.split(), output="whole")
    strikes = [("executor", "placement"), ("driver", "matching")]
    happened = chaos.disturbed(source, tmp_path / "out", tmp_path / "log", strikes, seed=1)
    assert happened.count(" killed ") == 2
    chaos.assert_same(chaos.results(tmp_path / "whole"), chaos.results(tmp_path / "out"))


def test_on_one_machine_a_killed_python_worker_is_replaced(tmp_path: Path, run_job: RunJob) -> None:
    source = chaos.table(tmp_path)
    run_job(source, *chaos.FLAGS.split(), output="whole")
    log = tmp_path / "log"
    run = chaos.start(source, tmp_path / "out", log, master=())  # that of conf/local
    try:
        for _ in range(2):  # once less than a task is tried
            assert chaos.wait_for(lambda: chaos.kill_busy_worker(run), run)
        chaos.finish(run, log)
    finally:
        chaos.end(run)
    assert "Lost task" in log.read_text()
    chaos.assert_same(chaos.results(tmp_path / "whole"), chaos.results(tmp_path / "out"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=False)  # noqa: S603, S607
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs: not root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # noqa: S603, S607


def job(source: Path, output: Path, *flags: str, **env: str) -> subprocess.Popen[str]:
    paths = ["--input-embeddings-path", str(source), "--output-path", str(output)]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, str(ROOT / "jobs" / "dedup.py"), *paths, *flags],
        env={**os.environ, "SPARK_CONF_DIR": str(CONF), "PYSPARK_PYTHON": sys.executable, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FLAGS = ("--n-clusters", "3", "--eps-thresholds", "0.1", "0.01", "--eps-to-extract", "0.01")


def fill(disk: Path, left: int) -> Path:
    """Leaves so many bytes; returns the file to delete."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes((24 << 20) - left))
    return ballast


def test_a_run_whose_output_filled_the_disk_goes_on_when_there_is_space(
    tmp_path: Path, small_disk: Path, run_job: RunJob
) -> None:
    source = chaos.table(tmp_path)
    run_job(source, *FLAGS, output="whole")
    ballast = fill(small_disk, 300_000)
    with pytest.raises((Py4JJavaError, PySparkException)) as error:
        run_job(source, *FLAGS, output="disk/out")
    assert "No space left on device" in java_message(error.value)
    assert "(a disk is full: free space" in advice(str(error.value))
    ballast.unlink()
    run_job(source, *FLAGS, output="disk/out")
    chaos.assert_same(chaos.results(tmp_path / "whole"), chaos.results(small_disk / "out"))


def test_a_disk_filled_by_shuffles_is_said_and_the_run_goes_on_after(
    tmp_path: Path, small_disk: Path, run_job: RunJob
) -> None:
    source, output = chaos.table(tmp_path), tmp_path / "out"
    run_job(source, *FLAGS, output="whole")
    ballast = fill(small_disk, 600_000)
    conf = f"--conf spark.local.dir={small_disk}/local pyspark-shell"
    out, err = job(source, output, *FLAGS, PYSPARK_SUBMIT_ARGS=conf).communicate()
    assert not out
    last = err.splitlines()[-1]
    assert last.startswith("semdedup: error: ")
    assert "No space left on device" in last
    assert "(a disk is full: free space where --output-path is and in spark.local.dir, then give the same" in last
    assert "\tat " not in err
    ballast.unlink()
    run_job(source, *FLAGS)
    chaos.assert_same(chaos.results(tmp_path / "whole"), chaos.results(output))


@pytest.fixture(scope="module")
def two_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, str]]]:
    """The output of two runs that were started together, and the exit code and words of each.

    A secret stands in their environment, their settings and, by mistake, in the paths.
    """
    folder = tmp_path_factory.mktemp(SECRET)
    ids, rows = real_embeddings()
    source = write_clips(folder / "in", dict(zip(ids[:600], rows, strict=False)) | {"bad": "text"})
    conf = f"--conf spark.hadoop.fs.s3a.secret.key=other-{SECRET} --conf spark.my.password={SECRET} pyspark-shell"
    runs = []
    for _ in range(2):
        runs.append(job(source, folder / "out", AWS_SECRET_ACCESS_KEY=SECRET, PYSPARK_SUBMIT_ARGS=conf))
        time.sleep(0.3)
    said = [run.communicate() for run in runs]
    return folder / "out", [(run.returncode, *words) for run, words in zip(runs, said, strict=True)]


def test_of_two_runs_on_one_output_exactly_one_proceeds(
    two_at_once: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    output, ended = two_at_once
    (done, _, log), (refused, _, error) = sorted(ended)
    assert (done, refused) == (0, 1), log + error
    assert "another run is writing to" in error.splitlines()[-1]
    assert "started" not in error
    assert sorted(p.name for p in output.iterdir()) == [
        "clustering", "dedup", "dedup_summary.csv", "rejected", "run.json",
    ]  # fmt: skip


def test_no_secret_is_logged_or_written(two_at_once: tuple[Path, list[tuple[int, str, str]]]) -> None:
    output, ended = two_at_once
    said = "".join(out + err for _, out, err in ended)
    assert "600 clips" not in said
    assert "601 clips" in said
    assert "***" in said  # of the path
    assert SECRET not in said
    run_json = (output / "run.json").read_text()
    assert "***" in run_json
    assert SECRET not in run_json
    assert SECRET not in (output / "dedup_summary.csv").read_text()
