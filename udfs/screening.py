"""The screen: which clips of a unit may have a similar one there, from their sketches alone."""

from typing import Any

import numpy as np

from udfs.sketches import SCALE, Codes, sketch_margin
from udfs.units import Borders, Flags, sweeps, tiles
from udfs.vectors import Matrix, round_down

TILE_ROWS = 512  # a float32 tile of 1 MiB stays in a core's cache


def cell_type(cells: int) -> np.dtype[Any]:
    """The numbers of so many cells."""
    return np.dtype("<u2" if cells <= 1 << 16 else "<u4")


def placement_type(m: int, cells: int) -> np.dtype[np.void]:
    """A placement as it travels to its unit: the clip's key and home, the number of borders it is near, its sketch."""
    number = cell_type(cells)
    return np.dtype(
        [("key", "<i8"), ("origin", number), ("near", number), ("second", "?"), ("sketch", "<i2", (m + 1,))]
    )


def survivors(
    codes: Codes, min_score: float, home: Flags, second: Flags | None = None, borders: Borders | None = None
) -> tuple[Flags, int]:
    """(n,) whether a row's cosine with any row it is compared with may reach `min_score`; and how many pairs it is.

    codes: (n, m + 1) int16 sketches; home, second and borders as for `sweeps`. Never false for a row that has such a
    partner; true for few that have none.
    """
    x = codes.astype(np.float32)
    floor = round_down(np.float64((min_score - sketch_margin(codes.shape[1] - 1)) * SCALE**2))
    found, pairs = np.zeros(len(x), bool), 0
    for rows, cols in sweeps(home, second, borders):
        triangle = rows is cols
        pairs += len(rows) * (len(rows) - 1) // 2 if triangle else len(rows) * len(cols)
        a, hit_a = x[rows], found[rows]
        b, hit_b = (a, hit_a) if triangle else (x[cols], found[cols])
        for i, j in tiles(len(a), len(b), triangle, TILE_ROWS):
            if triangle and i == j:
                _mark(a[i], b[j], hit_a[i], hit_b[j], floor, diagonal=True)
            elif 2 * (np.count_nonzero(hit_a[i]) + np.count_nonzero(hit_b[j])) < i.stop - i.start + j.stop - j.start:
                _mark(a[i], b[j], hit_a[i], hit_b[j], floor)
            else:  # two rows that are found already need not be compared: a dense group costs one look at each
                _mark_open(a[i], b[j], hit_a[i], hit_b[j], floor)
        found[rows] = hit_a
        found[cols] = hit_b
    return found, pairs


def _mark(a: Matrix, b: Matrix, hit_a: Flags, hit_b: Flags, floor: np.float32, diagonal: bool = False) -> None:
    """Set the flags of rows of a and of b that may be similar to one of the other; diagonal: to another than itself."""
    bound = a @ b.T
    if diagonal:
        np.fill_diagonal(bound, -np.inf)
    if bound.max(initial=-np.inf) >= floor:
        hit = bound >= floor
        hit_a |= hit.any(axis=1)
        hit_b |= hit.any(axis=0)


def _mark_open(a: Matrix, b: Matrix, hit_a: Flags, hit_b: Flags, floor: np.float32) -> None:
    """The same for the pairs of which not both are found."""
    rows, done = np.flatnonzero(~hit_a), np.flatnonzero(hit_a)
    hit = hit_a[rows]
    _mark(a[rows], b, hit, hit_b, floor)
    cols = np.flatnonzero(~hit_b)
    hit_cols = hit_b[cols]
    _mark(a[done], b[cols], hit_a[done], hit_cols, floor)
    hit_a[rows] = hit
    hit_b[cols] = hit_cols
