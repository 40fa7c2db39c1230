"""What the job reads, what it rejects, and what it refuses."""

import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.errors import JobError
from jobs.stages import Run
from jobs.storage import java_message
from tests.reference import f32, real_embeddings
from tests.spark.conftest import RunJob, write_clips, write_parquet

GOOD = {f"good{i}": np.eye(5, dtype=np.float32)[i % 5] + np.float32(0.01 * i) for i in range(20)}


def npy(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def test_bad_clip_files_are_rejected_with_their_reason(tmp_path: Path, run_job: RunJob) -> None:
    v = np.ones(5, np.float32)
    bad = {
        "short": v[:4], "matrix": np.ones((2, 5), np.float32), "nan": v * np.nan, "inf": v * np.inf,
        "huge": np.full(5, 1e300), "zero": v * 0, "whole": np.arange(5), "list": [1.0] * 5,
    }  # fmt: skip
    source = write_clips(tmp_path / "in", GOOD | bad, {"torn.pickle": b"\x80\x04", "empty.npy": b"", "notes.txt": b"?"})
    npy(v.astype(np.float16), source / "sub" / "nested.npy")
    npy(v, source / "sub" / "good3.npy")
    npy(v, source / "_under.npy")
    npy(v, source / "sub" / ".dot.npy")
    result = run_job(source, "--n-clusters", "3", "--max-rejected-fraction", "0.9")
    rejected = result.table("rejected")
    assert dict(zip(rejected["id"], rejected["reason"], strict=True)) == {
        "short": "wrong_dimension", "matrix": "wrong_dimension", "nan": "not_finite", "inf": "not_finite",
        "huge": "not_finite", "zero": "zero_norm", "whole": "wrong_dtype", "list": "not_an_array",
        "torn": "unreadable", "empty": "unreadable", "good3": "duplicate_id",
        "_under": "hidden_name", ".dot": "hidden_name",
    }  # fmt: skip
    assert all(source.name in path for path in rejected["source"])
    assert set(result.table("clustering/assignments")["id"]) == {*GOOD, "nested"}
    record = result.job.records["embeddings"]
    assert (record["rows"], record["accepted"], record["rejected"]) == (34, 21, 13)


def test_bad_parquet_rows_are_rejected_with_their_reason(tmp_path: Path, run_job: RunJob) -> None:
    embeddings = [[1.0, 2.0], [2.0, 1.0], None, [1.0, None], [1.0], [], [np.nan, 1.0], [0.0, 0.0], [1.0, 1e300]]
    ids = ["a", "b", "null", "hole", "short", "empty", "nan", "zero", "huge"]
    rows = {"id": [*ids, None, "a"], "embedding": [*embeddings, [1.0, 1.0], [9.0, 9.0]]}
    (tmp_path / "in").mkdir()
    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float64()))])
    pq.write_table(pa.table(rows, schema=schema), tmp_path / "in" / "x.parquet")
    result = run_job(tmp_path / "in", "--n-clusters", "1", "--max-rejected-fraction", "1")
    rejected = result.table("rejected")
    assert dict(zip(rejected["id"], rejected["reason"], strict=True)) == {
        "null": "null", "hole": "null", "short": "wrong_dimension", "empty": "wrong_dimension",
        "nan": "not_finite", "zero": "zero_norm", "huge": "not_finite", None: "null", "a": "duplicate_id",
    }  # fmt: skip
    assert set(result.table("clustering/assignments")["id"]) == {"a", "b"}


@pytest.mark.parametrize("name", ["a b", "100%", "q?x=1", "a+b", "[x]{y}*", "dé\U0001f3ac", "a'\"<b>&", "x=1", "%2F"])
def test_names_are_carried_through_unharmed(tmp_path: Path, run_job: RunJob, name: str) -> None:
    source = write_clips(tmp_path / name, {name: f32([1, 2]), "other": f32([1, 2])})
    result = run_job(source, "--n-clusters", "1", output=f"out {name}")
    dedup = result.table("dedup")
    assert set(dedup["id"]) == {name, "other"}
    assert len(result.removed("0.01")) == 1


def test_twenty_thousand_files_make_twenty_tasks(tmp_path: Path, run_job: RunJob, spark: SparkSession) -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 4)).astype(np.float32)
    source = write_clips(tmp_path / "in", {f"{i:05d}": row for i, row in enumerate(rows)})
    spark.sparkContext.setJobGroup("tiny-files", "")
    run_job(source, "--n-clusters", "50", "--files-per-partition", "1000")
    tracker = spark.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup("tiny-files")]
    stages = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
    assert max(stage.numTasks for stage in stages if stage) == 20


def test_of_a_repeated_id_the_same_copy_stays_in_any_order(tmp_path: Path, run_job: RunJob) -> None:
    np.save(tmp_path / "centroid.npy", f32([[1, 0]]))
    rows = np.array([[1, 0], [0, 1], [1, 1]])
    for name, order in (("one", [0, 1, 2]), ("other", [1, 0, 2])):
        source = write_parquet(tmp_path / name, ["a", "a", "b"], rows[order])
        flags = ("--centroids-path", str(tmp_path / "centroid.npy"), "--max-rejected-fraction", "0.5")
        assigned = run_job(source, *flags, output=f"out-{name}").table("clustering/assignments")
        assert assigned["cosine_dist_to_cent"][0] == 1.0  # [0, 1]: the smaller bytes


def test_the_split_pipelines_output_root_is_understood(tmp_path: Path, run_job: RunJob) -> None:
    root = tmp_path / "root"
    (root / "clips").mkdir(parents=True)
    write_clips(root / "iv2_embd", {"a": f32([1, 2])})
    assert run_job(root, "--n-clusters", "1", output="pickles").job.records["embeddings"]["format"] == "clips"
    write_parquet(root / "iv2_embd_parquet", ["a"], np.ones((1, 2)))
    record = run_job(root, "--n-clusters", "1", output="table").job.records["embeddings"]
    assert (record["format"], record["source"]) == ("parquet", str(root / "iv2_embd_parquet"))
    write_parquet(root / "ce1_embd_256p_parquet", ["a"], np.ones((1, 2)))
    with pytest.raises(JobError, match="several models: give the path of one of ce1_embd_256p_parquet"):
        run_job(root, output="two")


def test_whole_number_ids_and_other_column_names(tmp_path: Path, run_job: RunJob) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"clip.no": [1, 2], "v e": pa.array([[1.0, 0.0]] * 2, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "in" / "x.parquet")
    flags = ("--id-column", "clip.no", "--embedding-column", "v e", "--n-clusters", "1")
    assert run_job(tmp_path / "in", *flags).removed("0.01") == {"1"}


def refusals(tmp: Path) -> dict[str, tuple[Path, list[str], str]]:
    clips = write_clips(tmp / "clips", GOOD)
    table = write_parquet(tmp / "table", ["a", "b"], np.eye(2), text=["x", "y"])
    mixed = write_parquet(tmp / "mixed", ["a"], np.eye(1))
    write_clips(tmp / "mixed" / "deep", {})
    (mixed / "a.pickle").write_bytes(pickle.dumps(np.ones(3)))
    (tmp / "empty").mkdir()
    none = write_clips(tmp / "none", {"a": "text", "b": None})
    noparquet = tmp / "noparquet"
    noparquet.mkdir()
    (noparquet / "x.parquet").write_bytes(b"this is no Parquet")
    norows = write_parquet(tmp / "norows", [], np.empty((0, 2)))
    np.save(tmp / "centroids.npy", np.ones((2, 7), np.float32))
    return {
        "missing path": (tmp / "nowhere", [], "--input-embeddings-path .*nowhere does not exist"),
        "empty folder": (tmp / "empty", [], "empty holds no embeddings: looked for files ending in .pickle, .pkl"),
        "no readable clip": (none, [], r"none of its 2 clips is usable \(not_an_array 2\)"),
        "no rows": (norows, [], "norows holds no clips"),
        "no Parquet": (noparquet, [], r"none of its 1 files can be read as Parquet \(the first is .*x.parquet\)"),
        "both formats": (mixed, [], "choose with --input-format"),
        "no id column": (table, ["--id-column", "clip"], "--id-column clip: .* it has id, embedding, text"),
        "no embedding column": (table, ["--embedding-column", "v"], "--embedding-column v: the input has no such"),
        "text as embedding": (table, ["--embedding-column", "text"], "--embedding-column text is string; .*float"),
        "no rank column": (table, ["--rank-by", "q:asc"], "--rank-by q: the input has no such column"),
        "rank by a list": (table, ["--rank-by", "embedding:asc"], "--rank-by embedding is array<float>"),
        "rank clip files": (clips, ["--rank-by", "q:asc"], "--rank-by needs columns"),
        "no centroids": (clips, ["--centroids-path", str(tmp / "no.npy")], "--centroids-path .*no.npy is no file"),
        "other dimension": (clips, ["--centroids-path", str(tmp / "centroids.npy")], r"shape \(2, 7\); .* x 5"),
        "unknown scheme": (Path("nosuch://x/y"), [], "nosuch"),
    }


CASES = (
    "missing path", "empty folder", "no readable clip", "no rows", "no Parquet", "both formats", "no id column",
    "no embedding column", "text as embedding", "no rank column", "rank by a list", "rank clip files",
    "no centroids", "other dimension", "unknown scheme",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_unusable_input_is_refused_in_one_line(tmp_path: Path, run_job: RunJob, case: str) -> None:
    source, flags, message = refusals(tmp_path)[case]
    with pytest.raises(JobError, match=message) as error:
        run_job(source, *flags)
    assert "\n" not in str(error.value)


def test_too_many_rejects_stop_the_job_before_clustering(tmp_path: Path, run_job: RunJob) -> None:
    source = write_clips(tmp_path / "in", GOOD | {f"bad{i}": "text" for i in range(5)})
    with pytest.raises(JobError, match=r"--max-rejected-fraction 0.1: 5 of 25 clips .*not_an_array 5"):
        run_job(source)
    assert not (tmp_path / "out" / "clustering").exists()
    result = run_job(source, "--max-rejected-fraction", "0.2")  # more allowed: the same run goes on
    assert isinstance(result.job, Run)
    assert len(result.table("rejected")) == 5


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Makes the sample a small part of little data, so that Parquet is read where it lies; returns the flags for it."""
    monkeypatch.setattr("jobs.planning.LOOK_AT", 50)
    return ("--n-clusters", "6", "--kmeans-sample-rows", "120", "--eps-thresholds", "0.05")


def real_table(folder: Path, **more: object) -> Path:
    ids, rows = real_embeddings()
    return write_parquet(folder, ids, rows, files=3, **more)


def test_parquet_is_read_alike_where_it_lies_through_spark_and_packed(
    tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, small_sample: tuple[str, ...]
) -> None:
    source = real_table(tmp_path / "in")
    in_place = run_job(source, *small_sample, output="in-place")
    record = in_place.job.records["embeddings"]
    assert not record["packed"]
    assert record["bytes_written"] < 400 * 384 * 4  # of the sample only
    assert in_place.job.records["placement"]["bytes_read"] > 1200 * 384 * 2
    monkeypatch.setattr("jobs.readers.local_uris", lambda *_: [])
    through_spark = run_job(source, *small_sample, output="through-spark")
    assert not through_spark.job.records["embeddings"]["packed"]
    monkeypatch.setattr("jobs.embeddings._share_to_scan", lambda *_: 1.0)
    packed = run_job(source, *small_sample, output="packed")
    assert packed.job.records["embeddings"]["packed"]
    monkeypatch.setattr("jobs.embeddings._share_to_scan", lambda *_: 0.01)  # less than the sample needs
    late = run_job(source, *small_sample, output="late")
    for other in (through_spark, packed, late):
        for table in ("dedup", "clustering/assignments"):
            pd.testing.assert_frame_equal(in_place.table(table), other.table(table), check_exact=True)


@pytest.mark.parametrize(
    ("extra_id", "extra", "reason", "packed"),
    [
        ("zero", np.zeros(384), "zero_norm", False),
        ("short", np.ones(5), "wrong_dimension", True),
        ("acl2-source", np.ones(384), "duplicate_id", True),
    ],
)
def test_bad_rows_of_parquet_read_where_it_lies(
    tmp_path: Path, run_job: RunJob, small_sample: tuple[str, ...],
    extra_id: str, extra: np.ndarray, reason: str, packed: bool,
) -> None:  # fmt: skip
    source = real_table(tmp_path / "in")
    assert "acl2-source" in real_embeddings()[0]
    lists = pa.array([extra.astype(np.float32).tolist()], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": [extra_id], "embedding": lists}), source / "extra.parquet")
    result = run_job(source, *small_sample)
    rejected = result.table("rejected")
    assert list(zip(rejected["id"], rejected["reason"], strict=True)) == [(extra_id, reason)]
    assert rejected["source"][0].startswith("file:")
    record = result.job.records["embeddings"]
    assert (record["rows"], record["accepted"], record["packed"]) == (1201, 1200, packed)


def test_rank_columns_of_parquet_read_by_each_pass(
    tmp_path: Path, run_job: RunJob, small_sample: tuple[str, ...]
) -> None:
    quality = [float("nan") if n % 5 == 0 else n % 7 for n in range(1200)]
    source = real_table(tmp_path / "in", quality=quality)
    result = run_job(source, *small_sample, "--rank-by", "quality:desc")
    assert not result.job.records["embeddings"]["packed"]
    of = dict(zip(real_embeddings()[0], quality, strict=True))
    removed = result.table("dedup").query("decision == 'removed'")
    assert len(removed) > 300
    kept_first = [(of[m], of[i]) for i, m in zip(removed["id"], removed["max_id"], strict=True)]
    assert all(np.isnan(b) or a >= b for a, b in kept_first)


@pytest.mark.parametrize("reads", ["python", "spark"])
def test_parquet_files_that_cannot_be_read_are_rejected(
    tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, small_sample: tuple[str, ...], reads: str
) -> None:
    if reads == "spark":
        for module in ("footers", "readers"):
            monkeypatch.setattr(f"jobs.{module}.local_uris", lambda *_: [])
    source = real_table(tmp_path / "in")
    whole = run_job(source, *small_sample, output="whole")
    content = (source / "part-00001.parquet").read_bytes()
    spoilt = {
        "a cut%41+[x].parquet": content[:-4],  # the first, from which Spark would take the columns
        "b.parquet": b"<html>404</html>",
        "c.parquet": b"",
        "z.parquet": content[:5000],
    }
    for name, some in spoilt.items():
        (source / name).write_bytes(some)
    pq.write_table(pq.read_table(source / "part-00000.parquet").slice(0, 0), source / "norows.parquet")
    result = run_job(source, *small_sample, "--max-rejected-fraction", "0.3")
    rejected = result.table("rejected")
    assert sorted(path.rsplit("/", 1)[1] for path in rejected["source"]) == sorted(spoilt)
    assert set(rejected["reason"]) == {"unreadable"}
    assert rejected["id"].isna().all()
    record = result.job.records["embeddings"]
    assert (record["rows"], record["accepted"], record["rejected"], record["packed"]) == (1204, 1200, 4, False)
    for table in ("dedup", "clustering/assignments"):
        pd.testing.assert_frame_equal(whole.table(table), result.table(table), check_exact=True)
    with pytest.raises(JobError, match=r"--max-rejected-fraction 0.1: Parquet files of \d+ bytes, of \d+ in all"):
        run_job(source, *small_sample, output="strict")
    assert not (tmp_path / "strict" / "clustering").exists()


def test_a_parquet_file_with_broken_data_is_named_in_one_line(
    tmp_path: Path, run_job: RunJob, small_sample: tuple[str, ...]
) -> None:
    source = real_table(tmp_path / "in")
    broken = source / "part-00002.parquet"
    content = bytearray(broken.read_bytes())
    content[5000:200_000] = bytes(195_000)
    broken.write_bytes(content)
    with pytest.raises((PySparkException, Py4JJavaError, JobError)) as error:  # as PySpark 4, PySpark 3.5 and we do
        run_job(source, *small_sample)
    shown = str(error.value) if isinstance(error.value, JobError) else java_message(error.value)
    assert re.search(r"part-00002\.parquet cannot be read as Parquet: ", shown)
    assert "\n" not in shown
