"""Cells: the home of each embedding, and the neighbouring cells it visits as a guest.

A clip's home is its nearest centroid. Two unit vectors with cosine >= 1 - eps are at most r = sqrt(2 eps) apart.
When their homes differ, the segment between them crosses the plane midway between the two centroids, so one of
the two lies within r / 2 of that plane, and the other within r. With every clip a guest wherever such a plane is
within r / 2, each such pair meets in at least one cell, and there one of the two is at home. Of those at home in a
cell, only the ones within r of the plane towards a guest's own cell can be similar to that guest.
"""

import dataclasses
import math

import numpy as np

from udfs.device import chunk_elements, to_host, widened
from udfs.units import Flags
from udfs.vectors import (
    Doubles,
    Indices,
    Matrix,
    cosines,
    first_of_best,
    pair_dots,
    raise_best,
    round_down,
    screen_margin,
    squared_norms,
    unit_rows,
)

_BLOCK_ELEMENTS = 1 << 20  # a block of float32 products, rows x centroids: 4 MiB
_TABLE_CELLS = 4096  # up to so many cells their distances are kept in a table, of at most 64 MiB


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where n rows belong."""

    home: Indices  # (n,) the nearest centroid; of equally near ones the lowest number
    distance: Doubles  # (n,) 1 - cosine to it, in [0, 2]; 1 where the centroid is zero
    near_rows: Indices  # (e,) ascending; row near_rows[i] is near the border to cell near_cells[i]
    near_cells: Indices
    visits: Flags  # (e,) near enough to be a guest there

    def on_host(self) -> "Placement":
        """The same in NumPy."""
        return Placement(*(to_host(getattr(self, field.name)) for field in dataclasses.fields(self)))

    @property
    def guest_rows(self) -> Indices:
        """(g,) ascending; row guest_rows[i] is a guest of cell guest_cells[i]."""
        return self.near_rows[self.visits]

    @property
    def guest_cells(self) -> Indices:
        return self.near_cells[self.visits]

    @property
    def guests_per_row(self) -> float:
        return float(np.count_nonzero(self.visits)) / len(self.home)


class Cells:
    """The cells around k centroids (k, d) float32, for pairs of cosine >= 1 - eps; eps None takes no guests."""

    def __init__(self, centroids: Matrix, eps: float | None = None) -> None:
        self.centroids = centroids
        # A cosine rounded in float64 may pass 1 - eps with a distance this little above sqrt(2 eps).
        self._reach = 0.0 if eps is None else math.sqrt(2 * eps + 1e-12) / 2
        self._guests = eps is not None and len(centroids) > 1
        self._c_sq = squared_norms(centroids)
        self._half = (self._c_sq / 2).astype(np.float32)
        # The margin of unit rows scaled by the centroid's norm, and the rounding of c·c / 2.
        self._margin = screen_margin(centroids.shape[1]) * float(np.max(np.sqrt(self._c_sq) + self._c_sq))
        self._table = self._all_gaps() if self._guests and len(centroids) <= _TABLE_CELLS else None
        self._max_gap = 2 * math.sqrt(self._c_sq.max()) if self._table is None else float(self._table.max())

    def place(
        self, vectors: Matrix, x_sq: Doubles | None = None, unit: Matrix | None = None, near: bool = False
    ) -> Placement:
        """Homes and guests of the rows of `vectors`, (n, d) float32 without a zero row.

        Nearest is by Euclidean distance from x / |x|, that is the largest x·c / |x| - c·c / 2. float32 products
        screen the centroids; float64 decides a home, so it does not depend on the batch a row comes in. Guests
        are taken with a margin: never too few. x_sq and unit are the rows' squared norms and `unit_rows`.
        near: also look for the borders within r; otherwise only for those within r / 2, the guests'.
        """
        x_sq = squared_norms(vectors) if x_sq is None else x_sq
        unit = unit_rows(vectors, x_sq) if unit is None else unit
        home = np.empty(len(vectors), np.int64, like=vectors)
        found = [(home[:0], home[:0], home[:0] > 0)]
        step = max(1, chunk_elements(vectors, _BLOCK_ELEMENTS) // len(self.centroids))
        for start in range(0, len(vectors), step):
            rows = slice(start, start + step)
            home[rows], i, j, visits = self._place_block(vectors[rows], x_sq[rows], unit[rows], 2 if near else 1)
            found.append((i + start, j, visits))
        with np.errstate(invalid="ignore"):  # a zero centroid has no direction: 0 / 0
            cos = cosines(vectors, np.arange(len(vectors), like=vectors), self.centroids, home, x_sq, self._c_sq)
        near_rows, near_cells, visits = (np.concatenate(part) for part in zip(*found, strict=True))
        return Placement(home, 1.0 - np.nan_to_num(cos), near_rows, near_cells, visits)

    def _place_block(
        self, x: Matrix, x_sq: Doubles, unit: Matrix, reaches: int
    ) -> tuple[Indices, Indices, Indices, Flags]:
        screen = unit @ self.centroids.T
        screen -= self._half
        top = screen.max(axis=1)
        floor = round_down(top - 2 * self._margin)
        reach = reaches * self._reach
        widest = floor if not self._guests else round_down(floor - (reach * self._max_gap + 2 * self._margin))
        i, j = np.divmod(np.flatnonzero(screen >= widest[:, None]), screen.shape[1])
        value = screen[i, j]

        near = value >= floor[i]
        home = np.empty(len(x), np.int64, like=x)
        near_i, near_j = i[near], j[near]
        home[near_i] = near_j
        if len(near_i) > len(x):  # close calls: more than one candidate for some row
            close = np.bincount(near_i, minlength=len(x))[near_i] > 1
            near_i, near_j = near_i[close], near_j[close]
            exact = pair_dots(x, near_i, self.centroids, near_j) / np.sqrt(x_sq[near_i]) - self._c_sq[near_j] / 2
            best, lowest = np.full_like(x_sq, -np.inf), np.full_like(home, len(self.centroids))
            raise_best(best, near_i, exact)
            first_of_best(lowest, near_i, near_j, exact, best)
            np.copyto(home, lowest, where=lowest < len(self.centroids))
        if not self._guests:
            return home, i[:0], j[:0], i[:0] > 0

        of = home[i]
        behind = screen[i, of].astype(np.float64) - value - 2 * self._margin
        gaps = self._gaps(of, j)
        near = (behind <= reach * gaps) & (j != of)
        return home, i[near], j[near], behind[near] <= self._reach * gaps[near]

    def _gaps(self, i: Indices, j: Indices) -> Doubles:
        """How far apart centroids i and j are, rounded up."""
        if self._table is not None:
            return self._table[i, j].astype(np.float64)
        squared = self._c_sq[i] + self._c_sq[j] - 2 * pair_dots(self.centroids, i, self.centroids, j)
        gaps: Doubles = np.sqrt(np.maximum(squared, 0) + 1e-12 * self._c_sq.max())
        return gaps

    def _all_gaps(self) -> Matrix:
        c = widened(self.centroids)
        squared = self._c_sq[:, None] + self._c_sq - 2 * (c @ c.T)
        gaps = np.sqrt(np.maximum(squared, 0) + 1e-12 * self._c_sq.max()).astype(np.float32)
        table: Matrix = np.nextafter(gaps, np.float32(np.inf))
        return table


def bordering_pairs(placed: Placement) -> int:
    """How many pairs there are of a guest and a clip at home near the border to the guest's own cell."""
    cells = int(max(placed.home.max(initial=0), placed.near_cells.max(initial=0))) + 1
    own = placed.home[placed.near_rows]
    near, there = np.unique(own * cells + placed.near_cells, return_counts=True)
    visits, guests = np.unique((placed.near_cells * cells + own)[placed.visits], return_counts=True)
    _, i, j = np.intersect1d(near, visits, assume_unique=True, return_indices=True)
    return int(there[i] @ guests[j])
