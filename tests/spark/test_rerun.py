"""Reruns: resumed, refused, or started afresh."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import dedup
from jobs.errors import JobError
from jobs.storage import Storage
from tests.spark.conftest import Result, RunJob

TABLES = ("dedup", "clustering/assignments", "rejected")


def assert_equal(one: Result, other: Result) -> None:
    for table in TABLES:
        pd.testing.assert_frame_equal(one.table(table), other.table(table), check_exact=True)


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
    assert_equal(whole, resumed)
    assert sorted(p.name for p in resumed.output.iterdir()) == [
        "clustering", "dedup", "dedup_summary.csv", "rejected", "run.json",
    ]  # fmt: skip


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
    with pytest.raises(JobError, match=r"--output-path .*out is not empty \(thesis.txt\) and holds no run of this job"):
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


def test_run_json_says_where_the_run_stands(
    source: Path, tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(dedup, "match", die)
        with pytest.raises(ConnectionError):
            run_job(source, "--n-clusters", "4")
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["state"] == "running"
    states = {name: record["state"] for name, record in manifest["stages"].items()}
    assert states == dict.fromkeys(("embeddings", "clustering", "placement", "screening"), "complete") | {
        "matching": "running"
    }
    run_job(source, "--n-clusters", "4")
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["state"] == "complete"
    assert {record["state"] for record in manifest["stages"].values()} == {"complete"}
    assert manifest["input"]["files"] == 1


@pytest.mark.parametrize("torn", [b"", b'{"job": "spark-semdedup", "sta', b'{"job": "spark-semdedup"}'])
def test_a_run_json_torn_by_a_crash_has_a_whole_copy(
    source: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    written = Storage.write_json

    def die_in_the_middle(storage: Storage, uri: str, value: dict[str, object]) -> None:
        if uri.endswith("out/run.json") and len(value["stages"]) == 3:  # type: ignore[arg-type]
            storage.write(uri, torn)
            raise ConnectionError
        written(storage, uri, value)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_json", die_in_the_middle)
        with pytest.raises(ConnectionError):
            run_job(source, "--n-clusters", "4")
    monkeypatch.delattr(dedup, "load")
    run_job(source, "--n-clusters", "4")


def changes(source: Path) -> dict[str, Callable[[], object]]:
    part = source / "part-00000.parquet"
    return {
        "more": lambda: shutil.copy(part, source / "part-00001.parquet"),
        "newer": lambda: os.utime(part, (time.time() + 5,) * 2),
        "renamed": lambda: part.rename(source / "part-1.parquet"),
    }


@pytest.mark.parametrize("change", ["more", "newer", "renamed"])
def test_a_changed_input_is_refused(source: Path, run_job: RunJob, change: str) -> None:
    first = run_job(source, "--n-clusters", "4", "--which-to-keep", "random")
    changes(source)[change]()
    how = r"from 1 files of \d+ bytes to 2 files of \d+ bytes" if change == "more" else "in names or times"
    with pytest.raises(JobError, match=rf"--input-embeddings-path .* has changed since .*, {how}.*: choose another"):
        run_job(source, "--n-clusters", "4", "--which-to-keep", "random")
    if change != "more":  # then every id is there twice
        again = run_job(source, "--n-clusters", "4", "--which-to-keep", "random", "--overwrite")
        assert_equal(first, again)


def test_input_that_changes_under_a_run_is_noticed_at_its_end(
    source: Path, tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.planning.LOOK_AT", 10)
    place = getattr(dedup, "place")  # noqa: B009

    def change(*args: object) -> object:
        changes(source)["newer"]()
        return place(*args)

    monkeypatch.setattr(dedup, "place", change)
    with pytest.raises(JobError, match=r"has changed since the run .* start afresh with --overwrite"):
        run_job(source, "--n-clusters", "4", "--kmeans-sample-rows", "50")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "running"


def test_nothing_of_an_earlier_run_is_left(
    source: Path, tmp_path: Path, run_job: RunJob, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(source, "--n-clusters", "4", "--eps-thresholds", "0.3", "0.05", "0.01", "--eps-to-extract", "0.05")
    spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
    flags = ("--n-clusters", "2", "--eps-thresholds", "0.01", "--eps-to-extract", "0.01")
    delete, calls = Storage.delete, []

    def die(storage: Storage, uri: str) -> None:
        calls.append(uri)
        if uri.endswith("/clustering"):
            raise ConnectionError
        delete(storage, uri)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "delete", die)
            with pytest.raises(ConnectionError):
                run_job(source, *flags, "--overwrite")
        manifest = json.loads((tmp_path / "out" / "run.json").read_text())
        assert (manifest["state"], manifest["stages"]) == ("running", {})  # what is left is no result
        result = run_job(source, *flags)
    finally:
        spark.conf.unset("spark.sql.sources.partitionOverwriteMode")
    assert_equal(result, run_job(source, *flags, output="fresh"))
    assert set(result.table("dedup")["eps"]) == {"0.01"}
    files = {p.relative_to(result.output).parts[:2] for p in result.output.rglob("*.parquet") if p.is_file()}
    assert {parts for parts in files if parts[0] == "extraction"} == {
        ("extraction", "kept_ids.parquet"), ("extraction", "unique_ids_0.01.parquet"),
    }  # fmt: skip


def test_overwriting_removes_neither_the_input_nor_what_the_job_did_not_write(
    source: Path, tmp_path: Path, run_job: RunJob
) -> None:
    out = tmp_path / "out"
    inside = out / "iv2_embd_parquet"
    shutil.copytree(source, inside)
    run_job(inside, "--n-clusters", "4", "--overwrite")
    (out / "notes.txt").write_text("mine")
    run_job(inside, "--n-clusters", "3", "--overwrite")
    assert pq.read_table(inside).num_rows == 200
    assert (out / "notes.txt").read_text() == "mine"

    hidden = out / "dedup" / "clips"
    shutil.copytree(source, hidden)
    (tmp_path / "link").symlink_to(out)
    for output in ("out", "link"):
        with pytest.raises(JobError, match=r"--input-embeddings-path .* lies in .*dedup, which the job writes anew"):
            run_job(hidden, "--overwrite", output=output)
    with pytest.raises(JobError, match=r"--centroids-path .* lies in .*clustering, which the job writes anew"):
        run_job(inside, "--overwrite", "--centroids-path", str(out / "clustering" / "centroids.npy"))
    assert (out / "clustering" / "centroids.npy").exists()

    foreign = tmp_path / "foreign"
    (foreign / "rejected").mkdir(parents=True)
    (foreign / "rejected" / "mine.txt").write_text("mine")
    with pytest.raises(JobError, match="holds rejected, but no run of this job wrote that"):
        run_job(source, "--overwrite", output="foreign")
    assert [str(p.relative_to(foreign)) for p in foreign.rglob("*")] == ["rejected", "rejected/mine.txt"]
