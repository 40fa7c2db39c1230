"""Rank: one total order over all clips; of two similar clips the earlier one stays."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from udfs.vectors import Doubles, Indices

Values: TypeAlias = "Sequence[Any] | pd.Series[Any]"
Descending = bool


def rank_order(
    ids: Values,
    cosine_dist_to_cent: Doubles,
    which_to_keep: str,
    seed: int = 0,
    columns: Iterable[tuple[Values, Descending]] = (),
) -> Indices:
    """The row numbers of n clips in rank order, earliest first.

    `hard`: farthest from the centroid first, then the greater id; `soft`: nearest first, then the smaller id;
    `random`: by a seeded hash of the id. `columns` of n values each come before that, nulls last whatever the
    direction. The order depends on the values only, never on the order of the rows.
    """
    id_codes = _dense_codes(ids)
    if which_to_keep == "hard":
        keys = [-cosine_dist_to_cent, -id_codes]
    elif which_to_keep == "soft":
        keys = [cosine_dist_to_cent, id_codes]
    elif which_to_keep == "random":
        keys = [seeded_hash(ids, seed), id_codes]
    else:
        raise ValueError(f"which_to_keep is {which_to_keep!r}: hard, soft or random")
    leading = [_column_key(values, descending) for values, descending in columns]
    return np.lexsort([*reversed(keys), *reversed(leading)])  # lexsort's last key is its first criterion


def seeded_hash(ids: Values, seed: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """64 bits of BLAKE2b keyed by the seed (RFC 7693), one per id: the same on every machine and version."""
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids)
    return np.frombuffer(b"".join(digests), "<u8")


def _dense_codes(values: Values) -> Indices:
    """0, 1, 2, … in ascending order of the values, -1 for null."""
    codes, _ = pd.factorize(pd.Series(values), sort=True)
    return np.asarray(codes, np.int64)


def _column_key(values: Values, descending: Descending) -> Indices:
    codes = _dense_codes(values)
    ordered = -codes if descending else codes
    return np.where(codes < 0, np.iinfo(np.int64).max, ordered)
