"""Rank: one total order over all clips; of two similar clips the earlier one stays."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from udfs.vectors import Indices

Values: TypeAlias = "Sequence[Any] | pd.Series[Any] | np.ndarray[Any, Any] | pa.Array"


@dataclasses.dataclass(frozen=True)
class RankColumn:
    """A column that clips are ranked by; nulls come last in either direction."""

    name: str
    descending: bool


def rank_columns(which_to_keep: str, rank_by: Sequence[RankColumn] = ()) -> tuple[RankColumn, ...]:
    """The columns that rank the clips, the first criterion first; ids are unique, so the order is total.

    `hard`: farthest from the centroid first, then the greater id; `soft`: nearest first, then the smaller id;
    `random`: by a seeded hash of the id, the column `random_rank`. `rank_by` comes before that.
    """
    last = {
        "hard": (RankColumn("cosine_dist_to_cent", True), RankColumn("id", True)),
        "soft": (RankColumn("cosine_dist_to_cent", False), RankColumn("id", False)),
        "random": (RankColumn("random_rank", False), RankColumn("id", False)),
    }
    if which_to_keep not in last:
        raise ValueError(f"which_to_keep is {which_to_keep!r}: hard, soft or random")
    return (*rank_by, *last[which_to_keep])


def rank_order(columns: Iterable[tuple[Values, bool]]) -> Indices:
    """The row numbers of n clips in rank order, earliest first.

    columns: n values each, and whether they descend; the first criterion first, nulls last. The order depends on
    the values only, never on the order of the rows.
    """
    keys = [_key(values, descending) for values, descending in columns]
    return np.lexsort(keys[::-1])  # lexsort's last key is its first criterion


def seeded_hash(ids: Iterable[str], seed: int) -> Indices:
    """64 bits of BLAKE2b keyed by the seed (RFC 7693), one per id, the same on every machine and version.

    As int64 in the order of the unsigned numbers, since Spark has no others.
    """
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids)
    unsigned = np.frombuffer(b"".join(digests), "<u8")
    return (unsigned ^ np.uint64(1 << 63)).view(np.int64)


def _key(values: Values, descending: bool) -> np.ndarray[Any, Any]:
    """Numbers that ascend as the values rank."""
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return -values if descending else values
    codes, _ = pd.factorize(pd.Series(values), sort=True)  # 0, 1, 2, … in ascending order, -1 for null
    codes = np.asarray(codes, np.int64)
    return np.where(codes < 0, np.iinfo(np.int64).max, -codes if descending else codes)
