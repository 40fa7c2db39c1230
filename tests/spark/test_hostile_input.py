"""Input that is broken, odd or made to harm: all of it is accounted for, and nothing of it acts."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import JobError
from tests.reference import f32
from tests.spark.conftest import RunJob, write_clips
from udfs.decode import MAX_BYTES

VECTOR = f32([3, 1, 4, 1, 5, 9, 2, 6])


class Call:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def spoilt(trace: Path) -> list[tuple[str, str, bytes]]:
    """Ten ways a clip file can be bad: suffix, reason, content."""
    good = pickle.dumps(VECTOR)
    return [
        (".pickle", "unreadable", good[:-9]),
        (".pkl", "unreadable", b""),
        (".npy", "unreadable", b"<html>404</html>"),
        (".pickle", "not_an_array", pickle.dumps(Call(trace))),
        (".pickle", "not_an_array", pickle.dumps(VECTOR.tolist())),
        (".pickle", "wrong_dtype", pickle.dumps(VECTOR.astype(int))),
        (".pickle", "wrong_dimension", pickle.dumps(VECTOR[:5])),
        (".pickle", "wrong_dimension", pickle.dumps(np.stack([VECTOR, VECTOR]))),
        (".pickle", "not_finite", pickle.dumps(VECTOR * np.nan)),
        (".pickle", "zero_norm", pickle.dumps(VECTOR * 0)),
    ]


def test_of_ten_thousand_clips_each_bad_one_is_listed_once_with_its_reason(tmp_path: Path, run_job: RunJob) -> None:
    trace = tmp_path / "trace"
    source = tmp_path / "in"
    kinds = spoilt(trace)
    rows = np.random.default_rng(0).standard_normal((10_000, 8)).astype(np.float32)
    expected: dict[str, str] = {}
    for folder in range(20):
        (source / f"{folder:02d}").mkdir(parents=True)
    for n, row in enumerate(rows):
        name = f"clip-{n:05d}"
        suffix, reason, content = (".pickle", "", pickle.dumps(row))
        if n % 100 < 7:
            suffix, reason, content = kinds[len(expected) % 10]
            expected[name] = reason
        (source / f"{n % 20:02d}" / (name + suffix)).write_bytes(content)
    assert len(expected) == 700
    result = run_job(source, "--files-per-partition", "2000")
    rejected = result.table("rejected")
    assert len(rejected) == 700
    assert dict(zip(rejected["id"], rejected["reason"], strict=True)) == expected
    assert all(i in path for i, path in zip(rejected["id"], rejected["source"], strict=True))
    assert set(result.table("clustering/assignments")["id"]) == {f"clip-{n:05d}" for n in range(10_000)} - set(expected)
    record = json.loads((tmp_path / "out" / "run.json").read_text())["stages"]["embeddings"]
    assert (record["rows"], record["accepted"], record["rejected"]) == (10_000, 9_300, 700)
    assert record["rejected_by_reason"] == {
        "not_an_array": 140, "not_finite": 70, "unreadable": 210, "wrong_dimension": 140, "wrong_dtype": 70,
        "zero_norm": 70,
    }  # fmt: skip
    assert not trace.exists()


NAMES = (
    "a\nb", "a\tb", "a\\b", "a#b", "a,b", "a;b", "a%41", "%00", "~", "-rf", "$(touch x)", "`x`", "'; DROP",
    '"><script>alert(1)<script>', "{a,b}", "[!a]", "?*", "..b", "a..", "a.b.c", " a ", "\u202egnp", "\u200b",
    "e\u0301", "\U0001f468\u200d\U0001f469", "x" * 240, "\x01\x7f", "\x1b[31m",
)  # fmt: skip


def test_file_names_of_any_kind_are_carried_through(tmp_path: Path, run_job: RunJob) -> None:
    source = write_clips(tmp_path / "in", {f"n{name}": VECTOR for name in NAMES})
    (source / "colon:.pickle").write_bytes(pickle.dumps(VECTOR))  # Hadoop cannot open it on a local disk
    for n, name in enumerate(NAMES):
        (source / f"bad{name}.npy").write_bytes(b"" if n % 2 else b"?")
    result = run_job(source, "--n-clusters", "1", "--max-rejected-fraction", "1", "--eps-to-extract", "0.01")
    assert set(result.table("dedup")["id"]) == {f"n{name}" for name in NAMES}
    rejected = result.table("rejected")
    assert sorted(rejected["id"]) == sorted(["colon:", *(f"bad{name}" for name in NAMES)])
    assert set(rejected["reason"]) == {"unreadable"}
    ids = [set(result.table(f"extraction/{name}.parquet")["id"]) for name in ("kept_ids", "unique_ids_0.01")]
    assert len(ids[0]) == 1
    assert ids[0] | ids[1] == {f"n{name}" for name in NAMES}


def test_ids_of_any_kind_are_carried_through(tmp_path: Path, run_job: RunJob) -> None:
    ids = [*NAMES, "", "../../etc/passwd", "/etc/passwd", "..", "\0", "a\0b", "\r\n", "null", "NaN", "x" * 10_000]
    ids += ["\U0010ffff" * 2500, "eps=0.01/decision=kept", "__HIVE_DEFAULT_PARTITION__"]
    (tmp_path / "in").mkdir()
    raw = pa.array([*(i.encode() for i in ids), b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80"], pa.binary())
    text = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:])
    lists = pa.array([VECTOR.tolist()] * len(raw), pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": text, "embedding": lists}), tmp_path / "in" / "x.parquet")
    before = set(tmp_path.parent.rglob("*"))
    result = run_job(tmp_path / "in", "--n-clusters", "1", "--eps-to-extract", "0.01")
    assert sorted(result.table("clustering/assignments")["id"]) == sorted(ids)
    removed = result.table("extraction/unique_ids_0.01.parquet")["id"]
    assert sorted([*removed, *result.table("extraction/kept_ids.parquet")["id"]]) == sorted(ids)
    rejected = result.table("rejected")
    assert list(rejected["reason"]) == ["bad_id"] * 3
    assert "caf\ufffd" in set(rejected["id"])
    new = set(tmp_path.parent.rglob("*")) - before
    assert all(p.is_relative_to(result.output) for p in new)


def test_links_hidden_and_special_files_are_accounted_for(tmp_path: Path, run_job: RunJob) -> None:
    source = write_clips(tmp_path / "in", {"good": VECTOR})
    other = write_clips(tmp_path / "other", {"linked": VECTOR, "through": VECTOR})
    (source / "linked.pickle").symlink_to(other / "linked.pickle")
    (source / "folder").symlink_to(write_clips(tmp_path / "third", {"inside": VECTOR}))
    (source / "passwd.npy").symlink_to("/etc/passwd")
    (source / "gone.npy").symlink_to(tmp_path / "nothing")
    (source / "a" / "b" / "_c").mkdir(parents=True)
    for name in ("a/b/.dot.npy", "a/b/_c/under.npy"):
        (source / name).write_bytes(b"")
    os.mkfifo(source / "a" / "pipe.npy")
    with (source / "huge.npy").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    checked = source / "damaged.npy"
    np.save(checked, VECTOR)
    (source / ".damaged.npy.crc").write_bytes(b"crc\0\0\0\2\0" + b"\0\0\0\0")  # what Hadoop keeps beside a file
    result = run_job(source, "--n-clusters", "1", "--max-rejected-fraction", "1")
    assert set(result.table("dedup")["id"]) == {"good", "linked", "inside"}
    rejected = result.table("rejected")
    assert dict(zip(rejected["id"], rejected["reason"], strict=True)) == {
        "passwd": "unreadable", "gone": "unreadable", ".dot": "hidden_name", "under": "hidden_name",
        "pipe": "unreadable", "huge": "too_large", "damaged": "unreadable",
    }  # fmt: skip
    assert result.job.records["embeddings"]["rows"] == 10


def test_a_link_that_leads_round_in_a_circle_is_refused(tmp_path: Path, run_job: RunJob) -> None:
    source = write_clips(tmp_path / "in", {"good": VECTOR})
    (source / "a").mkdir()
    (source / "a" / "round").symlink_to(source)
    with pytest.raises(JobError, match=r"in/a/round is a link to .*/in, a folder it lies in; remove it"):
        run_job(source)
