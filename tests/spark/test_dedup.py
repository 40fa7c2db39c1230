"""The whole job against brute force, and its output tree."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.errors import JobError
from jobs.planning import Plan
from tests.reference import brute_force, real_embeddings, score
from tests.spark.conftest import Result, RunJob, write_clips, write_parquet
from udfs.ranking import seeded_hash

FLAGS = ("--n-clusters", "20", "--eps-thresholds", "0.1", "0.05", "0.01", "0.001")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    ids, rows = real_embeddings()
    return write_parquet(tmp_path / "real", ids, rows)


def in_rank_order(cluster: pd.DataFrame, which: str, seed: int) -> pd.DataFrame:
    """The prescribed order, written with plain sorting."""
    if which == "hard":
        return cluster.sort_values(["cosine_dist_to_cent", "id"], ascending=[False, False])
    if which == "soft":
        return cluster.sort_values(["cosine_dist_to_cent", "id"])
    return cluster.assign(h=seeded_hash(list(cluster["id"]), seed)).sort_values(["h", "id"])


@pytest.mark.parametrize("which", ["hard", "soft", "random"])
@pytest.mark.parametrize(
    ("scope", "eps", "more"),
    [
        ("cluster", ("0.1", "0.05", "0.01", "0.001"), ()),
        ("all", ("0.1", "0.05", "0.01", "0.001"), ("--max-block-rows", "100")),
    ],
)
def test_every_match_score_and_decision_is_that_of_brute_force(
    real: Path, run_job: RunJob, which: str, scope: str, eps: tuple[str, ...], more: tuple[str, ...]
) -> None:
    flags = ("--n-clusters", "20", "--match-scope", scope, "--eps-thresholds", *eps, *more)
    result = run_job(real, *flags, "--which-to-keep", which, "--seed", "7")
    assigned, dedup = result.table("clustering/assignments"), result.table("dedup")
    vectors = dict(zip(*real_embeddings(), strict=True))
    centroids = np.load(result.output / "clustering/centroids.npy")
    assert assigned["cluster_id"].nunique() == 20

    expected: dict[str, tuple[str | None, float | None]] = {}
    for clip, cluster_id, distance in assigned.itertuples(index=False):
        assert distance == pytest.approx(1 - score(vectors[clip], centroids[cluster_id]), abs=1e-14)
    for _, group in assigned.groupby("cluster_id") if scope == "cluster" else [(0, assigned)]:
        ids = list(in_rank_order(group, which, 7)["id"])
        matches, scores = brute_force(np.array([vectors[i] for i in ids]), 1 - float(eps[0]))
        expected |= {i: (ids[m] if m >= 0 else None, s) for i, m, s in zip(ids, matches, scores, strict=True)}

    assert len(dedup) == len(eps) * len(expected)
    for row in dedup.to_dict("records"):
        max_id, best = expected[row["id"]]
        assert row["max_id"] == max_id
        assert row["cosine_sim_score"] == pytest.approx(np.nan if best is None else best, abs=1e-14, nan_ok=True)
        removed = best is not None and best >= 1 - float(row["eps"])
        assert row["decision"] == ("removed" if removed else "kept")
    assert len(result.removed(eps[0])) > len(result.removed(eps[-1])) > 0
    records = result.job.records
    assert (records["matching"]["cells_cut"] > 0) == (scope == "all")


def test_one_pass_or_two_and_any_number_of_clusters_give_the_same_matches(
    real: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--eps-thresholds", "0.05", "--which-to-keep", "random")  # an order that no centroid plays a part in
    results = [run_job(real, *flags, output="planned")]
    for clusters, m, two_passes in (("3", 31, True), ("50", 0, False), ("200", 47, True)):
        plan = Plan(screen_coordinates=m, two_passes=two_passes, surviving_fraction=1.0, pairs_per_clip=1.0)
        monkeypatch.setattr("jobs.clustering.make_plan", lambda *_, plan=plan: plan)
        blocks = ("--max-block-rows", "50")
        results.append(run_job(real, *flags, *blocks, "--n-clusters", clusters, output=f"out-{clusters}"))
        assert results[-1].job.records["clustering"]["two_passes"] == two_passes
    columns = ["id", "max_id", "cosine_sim_score", "decision"]
    for other in results[1:]:
        pd.testing.assert_frame_equal(
            results[0].table("dedup")[columns], other.table("dedup")[columns], check_exact=True
        )
    assert len(results[0].removed("0.05")) > 300


def test_a_filter_of_survivors_changes_nothing(real: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(screen_coordinates=15, two_passes=True, surviving_fraction=1.0, pairs_per_clip=1.0)
    monkeypatch.setattr("jobs.clustering.make_plan", lambda *_: plan)
    listed = run_job(real, *FLAGS, output="listed")
    monkeypatch.setattr("jobs.screening._SORTED_ROWS", 0)
    monkeypatch.setattr("jobs.screening._BITS_PER_KEY", 4)  # many false positives
    filtered = run_job(real, *FLAGS, output="filtered")
    pd.testing.assert_frame_equal(listed.table("dedup"), filtered.table("dedup"), check_exact=True)


def test_copies_of_one_embedding_match_the_earliest_of_them(tmp_path: Path, run_job: RunJob) -> None:
    ids, rows = real_embeddings()
    copied = [*ids[:300], *(f"copy {n:04d}" for n in range(3000)), *(f"near {n:04d}" for n in range(300))]
    noise = 1e-4 * np.random.default_rng(1).standard_normal((300, rows.shape[1]))
    near = rows[5].astype(np.float32) + noise.astype(np.float32)
    vectors = np.concatenate([rows[:300], np.repeat(rows[[5, 5, 7]], 1000, axis=0), near])
    shuffled = np.random.default_rng(0).permutation(len(copied))
    source = write_parquet(tmp_path / "in", [copied[i] for i in shuffled], vectors[shuffled], files=3)
    result = run_job(source, "--eps-thresholds", "0.05", "--n-clusters", "6")
    dedup, assigned = result.table("dedup"), result.table("clustering/assignments")
    ranked = list(in_rank_order(assigned, "hard", 0)["id"])
    by_id = dict(zip(copied, vectors, strict=True))
    matches, scores = brute_force(np.array([by_id[i] for i in ranked]), 0.95)
    expected = {i: ranked[m] if m >= 0 else None for i, m in zip(ranked, matches, strict=True)}
    assert dict(zip(dedup["id"], dedup["max_id"], strict=True)) == expected
    assert result.job.records["matching"]["placements"] < 1000  # copies did not travel
    assert result.job.records["matching"]["pairs_bounded"] < 600 * 600  # copies met nobody
    assert sum(s == 1.0 for s in scores) >= 2998


def test_more_copies_than_allowed_stop_the_job_with_what_would_help(real: Path, run_job: RunJob) -> None:
    with pytest.raises(JobError, match=r"--max-guest-copies 2: .* copied about") as error:
        run_job(real, "--eps-thresholds", "0.2", "--n-clusters", "100", "--max-guest-copies", "2")
    eps, clusters = re.findall(r"up to ([\d.]+), --n-clusters (\d+)", str(error.value))[0]
    assert run_job(real, "--eps-thresholds", eps, "--n-clusters", "100", "--max-guest-copies", "2", output="a")
    assert run_job(real, "--eps-thresholds", "0.2", "--n-clusters", clusters, "--max-guest-copies", "2", output="b")


def test_the_cut_into_partitions_changes_nothing(tmp_path: Path, run_job: RunJob) -> None:
    ids, rows = real_embeddings()
    shuffled = np.random.default_rng(0).permutation(len(ids))
    ids, rows = [*(ids[i] for i in shuffled), ids[0]], np.concatenate([rows[shuffled], rows[:1]])  # one id twice
    results: list[Result] = []
    for files in (1, 7, 64):
        source = write_parquet(tmp_path / f"in{files}", ids, rows, files)
        flags = ("--files-per-partition", "1", "--kmeans-sample-rows", "600")  # of 1,200
        results.append(run_job(source, *FLAGS, *flags, output=f"out{files}"))
    for other in results[1:]:
        for name in ("dedup", "clustering/assignments"):
            pd.testing.assert_frame_equal(results[0].table(name), other.table(name), check_exact=True)
        assert list(other.table("rejected")["id"]) == [ids[-1]]


def test_clips_and_parquet_of_the_same_embeddings_agree(tmp_path: Path, real: Path, run_job: RunJob) -> None:
    ids, rows = real_embeddings()
    clips = write_clips(tmp_path / "clips", {i: row[None] for i, row in zip(ids, rows, strict=True)})
    a, b = run_job(clips, *FLAGS, output="a"), run_job(real, *FLAGS, output="b")
    pd.testing.assert_frame_equal(a.table("dedup"), b.table("dedup"), check_exact=True)


def test_a_sample_that_the_driver_cannot_hold_is_said(
    real: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobs.planning._SAMPLE_BYTES", 600 * 4 * 384)
    record = run_job(real, "--n-clusters", "4", "--kmeans-sample-rows", "all").job.records["clustering"]
    assert record["sample_rows"] == 600
    assert "--kmeans-sample-rows all: on the CPU k-means trains on the 600 clips" in caplog.text


TEXTBOOK = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [1, 2, 3], [1, 2, 3]], np.float32)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("hard", {"3": None, "2": "3", "1": "2", "5": "1", "4": "5", "0": "5"}),
        ("soft", {"0": None, "4": "0", "5": "0", "1": "0", "2": "1", "3": "2"}),
        ("easy", {"0": None, "4": "0", "5": "0", "1": "0", "2": "1", "3": "2"}),
    ],
)
def test_the_textbook_case(tmp_path: Path, run_job: RunJob, which: str, expected: dict[str, str | None]) -> None:
    np.save(tmp_path / "centroid.npy", TEXTBOOK[:1])
    source = write_parquet(tmp_path / "in", [str(i) for i in range(6)], TEXTBOOK)
    flags = ("--centroids-path", str(tmp_path / "centroid.npy"), "--which-to-keep", which)
    dedup = run_job(source, *flags, "--eps-thresholds", "0", "0.1").table("dedup")
    at_01 = dedup[dedup["eps"] == "0.1"]
    assert dict(zip(at_01["id"], at_01["max_id"], strict=True)) == expected
    distance = dict(zip(at_01["id"], at_01["cosine_dist_to_cent"], strict=True))
    assert distance["0"] == distance["4"] == distance["5"] == 0.0
    assert distance["1"] == pytest.approx(1 - 32 / np.sqrt(14 * 77))
    exact = dedup[(dedup["eps"] == "0") & (dedup["decision"] == "removed")]
    assert set(exact["id"]) == ({"4", "0"} if which == "hard" else {"4", "5"})
    assert exact["cosine_sim_score"].tolist() == [1.0, 1.0]


def test_rank_by_columns_decide_which_clip_stays(tmp_path: Path, run_job: RunJob) -> None:
    rows = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    quality = [2**60, 2**60 + 1, None, 5, 5]  # numbers that float64 would confuse, and a null
    length = ["b", "b", "z", "short", "shorter"]
    source = write_parquet(tmp_path / "in", list("abcde"), rows, quality=quality, length=length)
    flags = ("--n-clusters", "2", "--rank-by", "quality:desc,length:asc")
    assert run_job(source, *flags).removed("0.01") == {"a", "c", "e"}


def test_the_output_tree(real: Path, run_job: RunJob) -> None:
    result = run_job(real, *FLAGS, "--eps-to-extract", "0.05")
    out = result.output
    assert sorted(p.name for p in out.iterdir()) == [
        "clustering", "dedup", "dedup_summary.csv", "extraction", "rejected", "run.json",
    ]  # fmt: skip
    folders = {p.relative_to(out / "dedup").as_posix() for p in (out / "dedup").glob("*/*")}
    assert folders == {f"eps={e}/decision={d}" for e in ("0.1", "0.05", "0.01", "0.001") for d in ("kept", "removed")}
    dedup = result.table("dedup")
    assert set(dedup) == {
        "id", "cluster_id", "cosine_dist_to_cent", "max_id", "cosine_sim_score", "eps", "decision",
    }  # fmt: skip

    kept, gone = result.table("extraction/kept_ids.parquet"), result.table("extraction/unique_ids_0.05.parquet")
    assert list(kept) == list(gone) == ["id"]
    assert set(gone["id"]) == result.removed("0.05")
    assert len(kept) + len(gone) == 1200
    assert not set(kept["id"]) & set(gone["id"])

    summary = pd.read_csv(out / "dedup_summary.csv", dtype={"eps": str})
    assert summary["eps"].tolist() == ["0.1", "0.05", "0.01", "0.001"]
    assert summary["removed"].tolist() == [len(result.removed(eps)) for eps in summary["eps"]]
    assert (summary["kept"] + summary["removed"] == summary["total"]).all()
    assert set(summary["total"]) == {1200}

    record = json.loads((out / "run.json").read_text())
    assert record["options"]["eps_thresholds"] == [0.1, 0.05, 0.01, 0.001]
    assert record["stages"]["embeddings"]["accepted"] == 1200
    assert all(stage["seconds"] >= 0 for stage in record["stages"].values())
    matching = record["stages"]["matching"]
    assert matching["bytes_shuffled"] > 500 * 384 * 2
    assert matching["pairs_bounded"] > matching["pairs_scored"] > 100
    assert record["options"]["n_clusters"] == 20


def test_more_clusters_than_distinct_clips_warns(
    tmp_path: Path, run_job: RunJob, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_parquet(tmp_path / "in", list("abcd"), np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
    result = run_job(source, "--n-clusters", "10")
    assert result.job.records["clustering"]["clusters"] == 2
    assert "--n-clusters 10 is more than the 2 distinct clips" in caplog.text
    assert len(result.removed("0.01")) == 2
