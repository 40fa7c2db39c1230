"""The screen: which clips of a unit may have a similar one there, from their sketches alone."""

import numpy as np

from udfs.sketches import SCALE, Codes, sketch_margin
from udfs.units import Flags, sweeps, tiles
from udfs.vectors import round_down


def placement_type(m: int) -> np.dtype[np.void]:
    """A placement as it travels to its unit, sketch included."""
    return np.dtype([("key", "<i8"), ("home", "?"), ("second", "?"), ("sketch", "<i2", (m + 1,))])


TILE_ROWS = 512  # a float32 tile of 1 MiB stays in a core's cache


def survivors(codes: Codes, min_score: float, home: Flags, second: Flags | None = None) -> tuple[Flags, int]:
    """(n,) whether a row's cosine with any row it is compared with may reach `min_score`; and how many pairs it is.

    codes: (n, m + 1) int16 sketches; home and second as for `sweeps`. Never false for a row that has such a
    partner; true for few that have none.
    """
    x = codes.astype(np.float32)
    floor = round_down(np.float64((min_score - sketch_margin(codes.shape[1] - 1)) * SCALE**2))
    found, pairs = np.zeros(len(x), bool), 0
    for rows, cols in sweeps(home, second):
        triangle = rows is cols
        pairs += len(rows) * (len(rows) - 1) // 2 if triangle else len(rows) * len(cols)
        a, hit_a = x[rows], np.zeros(len(rows), bool)
        b, hit_b = (a, hit_a) if triangle else (x[cols], np.zeros(len(cols), bool))
        for i, j in tiles(len(a), len(b), triangle, TILE_ROWS):
            if hit_a[i].all() and hit_b[j].all():
                continue
            bound = a[i] @ b[j].T
            if triangle and i == j:
                np.fill_diagonal(bound, -np.inf)
            if bound.max() < floor:
                continue
            hit = bound >= floor
            hit_a[i] |= hit.any(axis=1)
            hit_b[j] |= hit.any(axis=0)
        found[rows] |= hit_a
        found[cols] |= hit_b
    return found, pairs
