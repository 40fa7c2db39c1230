"""The screen: which clips of a unit may have a similar one there, from their sketches alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from udfs import tensor_screen
from udfs.device import beside, to_gpu, to_host
from udfs.parts import in_parts
from udfs.sketches import SCALE, Codes, sketch_margin
from udfs.units import Flags, Sweep, Unit, pairs_of, sweeps_of, tiles
from udfs.vectors import Indices, Matrix, round_down

TILE_ROWS = 512  # a float32 tile of 1 MiB stays in a core's cache
GPU_TILE_ROWS = 8192  # without tensor cores

_HALF_SCALE = 2**15  # a power of two, so that sketches become coordinates exactly


def cell_type(cells: int) -> np.dtype[Any]:
    """The numbers of so many cells."""
    return np.dtype("<u2" if cells <= 1 << 16 else "<u4")


def placement_type(m: int, cells: int) -> np.dtype[np.void]:
    """A placement as it travels to its unit: the clip's key and home, the number of borders it is near, its sketch."""
    number = cell_type(cells)
    return np.dtype(
        [("key", "<i8"), ("origin", number), ("near", number), ("second", "?"), ("sketch", "<i2", (m + 1,))]
    )


def survivors(codes: Codes, min_score: float, units: Sequence[Unit]) -> tuple[Flags, int]:
    """(n,) whether a row's cosine with any row it is compared with may reach `min_score`; and how many pairs it is.

    codes: (n, m + 1) int16 sketches of the rows of the units, one unit after the other. Never false for a row that
    has such a partner; true for few that have none.
    """
    sweeps = sweeps_of(units)
    return mark_sweeps(codes, min_score, sweeps, TILE_ROWS), sum(map(pairs_of, sweeps))


def survivors_on_gpu(codes: Codes, min_score: float, units: Sequence[Unit]) -> tuple[Flags, int]:
    """The same on the current GPU, in as many parts as its memory asks for; codes lie on the host."""
    found = np.zeros(len(codes), bool)
    sweeps = sweeps_of(units)

    def work(rows: Indices, part: list[Sweep]) -> None:
        there = to_gpu(codes if len(rows) == len(codes) else codes[rows])
        found[rows] |= to_host(mark_sweeps(there, min_score, part, GPU_TILE_ROWS))

    in_parts(sweeps, len(codes), 16 * codes.shape[1] + 64, work)
    return found, sum(map(pairs_of, sweeps))


def mark_sweeps(codes: Codes, min_score: float, sweeps: Sequence[Sweep], tile_rows: int) -> Flags:
    """(n,) whether a row may have a similar one in the sweeps, where the sketches lie."""
    m = codes.shape[1] - 1
    lowest = min_score - sketch_margin(m)
    if tensor_screen.usable(codes, m):
        bounding = codes.astype(np.float32) / np.float32(_HALF_SCALE)  # exact
        return tensor_screen.mark(
            tensor_screen.halved(bounding), sweeps, lowest * (SCALE / _HALF_SCALE) ** 2 - tensor_screen.half_margin(m)
        )
    x = codes.astype(np.float32)
    floor = round_down(np.float64(lowest * SCALE**2))
    found = np.zeros(len(x), bool, like=x)
    for sweep in sweeps:
        triangle = sweep[0] is sweep[1]
        rows = beside(x, sweep[0])
        cols = rows if triangle else beside(x, sweep[1])
        a, hit_a = x[rows], found[rows]
        b, hit_b = (a, hit_a) if triangle else (x[cols], found[cols])
        for i, j in tiles(len(a), len(b), triangle, tile_rows):
            if triangle and i == j:
                _mark(a[i], b[j], hit_a[i], hit_b[j], floor, diagonal=True)
            elif 2 * (np.count_nonzero(hit_a[i]) + np.count_nonzero(hit_b[j])) < i.stop - i.start + j.stop - j.start:
                _mark(a[i], b[j], hit_a[i], hit_b[j], floor)
            else:  # two rows that are found already need not be compared: a dense group costs one look at each
                _mark_open(a[i], b[j], hit_a[i], hit_b[j], floor)
        found[rows] = hit_a
        found[cols] = hit_b
    return found


def _mark(a: Matrix, b: Matrix, hit_a: Flags, hit_b: Flags, floor: np.float32, diagonal: bool = False) -> None:
    """Set the flags of rows of a and of b that may be similar to one of the other; diagonal: to another than itself."""
    if len(a) == 0 or len(b) == 0:
        return
    bound = a @ b.T
    if diagonal:
        np.fill_diagonal(bound, -np.inf)
    if bound.max() >= floor:
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
