import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from udfs.ranking import RankColumn, rank_columns, rank_order, seeded_hash

IDS = ["b", "a", "c", "é", "a\n"]
DISTANCE = np.array([0.1, 0.3, 0.1, 0.0, 0.3])


def ranked(
    which: str,
    seed: int = 0,
    columns: Sequence[tuple[list[Any], bool]] = (),
    rows: Sequence[int] = range(5),
) -> list[str]:
    ids = [IDS[i] for i in rows]
    values: dict[str, Any] = {"id": ids, "cosine_dist_to_cent": DISTANCE[list(rows)]}
    values["random_rank"] = seeded_hash(ids, seed)
    values |= {str(n): column for n, (column, _) in enumerate(columns)}
    rank = rank_columns(which, [RankColumn(str(n), descending) for n, (_, descending) in enumerate(columns)])
    return [ids[i] for i in rank_order([(values[column.name], column.descending) for column in rank])]


def test_hard_takes_the_farthest_then_the_greater_id() -> None:
    assert ranked("hard") == ["a\n", "a", "c", "b", "é"]


def test_soft_takes_the_nearest_then_the_smaller_id() -> None:
    assert ranked("soft") == ["é", "b", "c", "a", "a\n"]


def test_random_depends_on_seed_and_id_only() -> None:
    orders = {tuple(ranked("random", seed=seed)) for seed in range(20)}
    assert len(orders) > 10
    assert seeded_hash(["clip"], 42).tolist() == [15723914566711071832 - 2**63]  # never changes: reruns depend on it


@pytest.mark.parametrize("which", ["hard", "soft", "random"])
def test_the_order_of_the_rows_does_not_matter(which: str) -> None:
    expected = ranked(which, seed=3)
    for order in itertools.permutations(range(5)):
        assert ranked(which, seed=3, rows=order) == expected


def test_columns_come_first_and_nulls_last() -> None:
    quality = [1.5, None, 1.5, float("nan"), 2.5]
    assert ranked("hard", columns=[(quality, True)]) == ["a\n", "c", "b", "a", "é"]
    assert ranked("hard", columns=[(quality, False)]) == ["c", "b", "a\n", "a", "é"]
    assert ranked("soft", columns=[(["x", "x", "y", "y", "x"], True), (quality, True)]) == ["c", "é", "a\n", "b", "a"]


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="hardest"):
        ranked("hardest")
