"""Reruns: resumed, refused, or started afresh."""

from pathlib import Path

import pandas as pd
import pytest

from jobs import dedup
from jobs.errors import JobError
from tests.reference import real_embeddings
from tests.spark.conftest import RunJob, write_parquet


@pytest.fixture
def source(tmp_path: Path) -> Path:
    ids, rows = real_embeddings()
    return write_parquet(tmp_path / "in", ids[:200], rows[:200])


@pytest.mark.parametrize("broken", ["load", "cluster", "match", "decide"])
def test_a_run_that_died_goes_on_and_ends_the_same(
    source: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    whole = run_job(source, "--n-clusters", "4", output="whole")

    calls = []

    def counted(name: str) -> None:
        work = getattr(dedup, name)

        def go(*args: object) -> object:
            calls.append(name)
            record = work(*args)
            if name == broken and calls.count(name) == 1:
                raise ConnectionError("the driver died here, its work done but not recorded")
            return record

        monkeypatch.setattr(dedup, name, go)

    stages = ["load", "cluster", "match", "decide"]
    for name in stages:
        counted(name)
    with pytest.raises(ConnectionError):
        run_job(source, "--n-clusters", "4")
    resumed = run_job(source, "--n-clusters", "4")
    assert calls.count(broken) == 2
    assert all(calls.count(name) == 1 for name in stages if name != broken)
    pd.testing.assert_frame_equal(whole.table("dedup"), resumed.table("dedup"), check_exact=True)
    assert not (resumed.output / "_work").exists()


def test_a_finished_run_is_not_done_again(source: Path, run_job: RunJob) -> None:
    first = run_job(source, "--n-clusters", "4")
    written = {p: p.stat().st_mtime_ns for p in first.output.rglob("*.parquet")}
    again = run_job(source, "--n-clusters", "4")
    assert again.job.records == first.job.records
    assert {p: p.stat().st_mtime_ns for p in again.output.rglob("*.parquet")} == written


def test_other_options_are_refused_by_name_unless_overwritten(source: Path, run_job: RunJob) -> None:
    run_job(source, "--n-clusters", "4")
    with pytest.raises(JobError, match=r"other options \(--n-clusters was 4, now 5\).*--overwrite"):
        run_job(source, "--n-clusters", "5")
    result = run_job(source, "--n-clusters", "5", "--overwrite", "--eps-thresholds", "0.05")
    assert result.job.records["clustering"]["clusters"] == 5
    assert set(result.table("dedup")["eps"]) == {"0.05"}


def test_a_mistyped_flag_can_be_mended_in_the_same_folder(source: Path, run_job: RunJob) -> None:
    with pytest.raises(JobError, match="--id-column clip"):
        run_job(source, "--n-clusters", "4", "--id-column", "clip")
    assert run_job(source, "--n-clusters", "4").job.records["embeddings"]["accepted"] == 200


def test_a_folder_of_somebody_else_is_refused_and_survives_overwriting(
    source: Path, tmp_path: Path, run_job: RunJob
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(JobError, match=r"--output-path .*out is not empty and holds no run of this job"):
        run_job(source, "--n-clusters", "4")
    run_job(source, "--n-clusters", "4", "--overwrite")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_an_output_path_that_is_a_file_or_lies_in_the_input_is_refused(
    source: Path, tmp_path: Path, run_job: RunJob
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"--output-path .*file is a file"):
        run_job(source, output="file")
    with pytest.raises(JobError, match=r"--output-path .*/in/out lies inside the embeddings"):
        run_job(source, output="in/out")
    assert [p.name for p in source.glob("*.parquet")] == ["part-00000.parquet"]
