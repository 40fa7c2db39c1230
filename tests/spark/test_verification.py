"""The last stage: results that do not hold are found, and results that hold pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs import dedup
from jobs.errors import JobError
from tests.reference import real_embeddings
from tests.spark.conftest import RunJob, write_parquet


def tamper(output: Path) -> dict[str, tuple[Callable[[], object], str]]:
    """Ways to spoil the results, and what is said of each."""
    removed = next((output / "dedup" / "eps=0.01" / "decision=removed").glob("*.parquet"))
    kept = next((output / "dedup" / "eps=0.01" / "decision=kept").glob("*.parquet"))
    assigned = next((output / "clustering" / "assignments").glob("*.parquet"))

    def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[], object]:
        return lambda: change(pd.read_parquet(path)).to_parquet(path)

    def to_a_later_one(rows: pd.DataFrame) -> pd.DataFrame:
        by_rank = rows.sort_values("cosine_dist_to_cent", ascending=False)
        return by_rank.assign(max_id=by_rank["id"].iloc[-1])

    csv = output / "dedup_summary.csv"
    return {
        "lost": (kept.unlink, "clips assigned, at eps 0.01"),
        "twice": (lambda: shutil.copy(kept, kept.with_name("z.parquet")), "clips assigned, at eps 0.01"),
        "another id": (rewrite(kept, lambda rows: rows.assign(id="x")), "or other ones"),
        "assigned twice": (
            rewrite(assigned, lambda rows: rows.assign(id=rows["id"].iloc[0])), "but 1 different ids"
        ),
        "unknown match": (rewrite(removed, lambda rows: rows.assign(max_id="nobody")), "are clips"),
        "later match": (rewrite(removed, to_a_later_one), "are earlier in rank"),
        "against the score": (
            rewrite(removed, lambda rows: rows.assign(cosine_sim_score=0.5)), "are removed at eps 0.01 against"
        ),
        "another summary": (lambda: csv.write_text("eps,kept,removed,total\n"), "dedup_summary.csv is not"),
        "rejected more": (
            lambda: pd.DataFrame({"id": ["x"], "source": ["y"], "reason": ["z"]}).to_parquet(
                output / "rejected" / "z.parquet"
            ),
            "1 in rejected/",
        ),
    }  # fmt: skip


SPOILT = (
    "lost", "twice", "another id", "assigned twice", "unknown match", "later match", "against the score",
    "another summary", "rejected more",
)  # fmt: skip


def test_results_that_do_not_hold_are_not_complete(
    source: Path, tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify, out = getattr(dedup, "verify"), tmp_path / "out"  # noqa: B009
    flags = ("--n-clusters", "4", "--eps-thresholds", "0.01", "0.3", "--eps-to-extract", "0.01")

    def die(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(dedup, "verify", die)
    with pytest.raises(ConnectionError):
        run_job(source, *flags)
    shutil.copytree(out, tmp_path / "good")
    monkeypatch.setattr(dedup, "verify", verify)
    for name in SPOILT:
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "good", out)
        for crc in out.rglob(".*.crc"):
            crc.unlink()
        spoil, said = tamper(out)[name]
        spoil()
        with pytest.raises(JobError, match=rf"the results do not hold: .*{said}.*; do not use them"):
            run_job(source, *flags)
        assert json.loads((out / "run.json").read_text())["state"] == "running", name
    shutil.rmtree(out)
    shutil.copytree(tmp_path / "good", out)
    assert run_job(source, *flags).job.records["verification"]["clips"] == 200


@pytest.mark.parametrize("rule", ["hard", "soft", "random", "rank-by"])
def test_every_rule_of_rank_is_verified(tmp_path: Path, run_job: RunJob, rule: str) -> None:
    ids, rows = real_embeddings()
    quality = [None if n % 3 == 0 else n % 5 for n in range(300)]
    more: dict[str, Any] = {"quality": quality, "text": [str(n % 2) for n in range(300)]}
    source = write_parquet(tmp_path / "in", ids[:300], rows[:300], **more)
    flags = ("--rank-by", "quality:asc,text:desc") if rule == "rank-by" else ("--which-to-keep", rule)
    record = run_job(source, "--n-clusters", "3", "--eps-thresholds", "0.3", *flags).job.records["verification"]
    assert record["matches"] > 20
