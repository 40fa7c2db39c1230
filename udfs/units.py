"""Units of work: which clips of a cell are compared with which.

A cell compares its own clips with all it holds, never guest with guest. A cell too large for one task is cut into
blocks, and a unit is a pair of blocks (a, b), a <= b: the pairs with one clip in each, or those within one block.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from udfs.vectors import Indices

Flags = NDArray[np.bool_]
Sweep = tuple[Indices, Indices]  # compare these rows with those; the same object twice: each pair of them once


@dataclasses.dataclass(frozen=True)
class Borders:
    """Which rows of a unit lie near which border: all that a guest from beyond it can be similar to."""

    origin: Indices  # (n,) the home cell of each row
    near_rows: Indices  # (e,) row near_rows[i] is near the border to cell near_cells[i]
    near_cells: Indices

    def sweeps(self, homes: Flags, guests: Indices) -> Iterator[Sweep]:
        """The guests of one origin after the other, with the flagged rows near the border to it."""
        there = homes[self.near_rows]
        by_cell = np.argsort(self.near_cells[there], kind="stable")
        rows, cells = self.near_rows[there][by_cell], self.near_cells[there][by_cell]
        guests = guests[np.argsort(self.origin[guests], kind="stable")]
        origins = self.origin[guests]
        starts = run_starts(origins[:, None])
        first, last = (np.searchsorted(cells, origins[starts], side) for side in ("left", "right"))
        for group, left, right in zip(np.split(guests, starts[1:]), first, last, strict=False):
            yield rows[left:right], group


@dataclasses.dataclass(frozen=True)
class Unit:
    """The n rows of a unit, and which of them it compares."""

    home: Flags  # (n,) whether a row is at home in the cell
    second: Flags | None = None  # (n,) whether it lies in the second of two blocks; None where the unit is one block
    borders: Borders | None = None  # with them a guest is compared only with those near the border to its home

    @property
    def kinds(self) -> Indices:
        """(n,) alike for rows that are compared with the same rows, borders aside."""
        kinds: Indices = self.home.astype(np.int64)
        return kinds if self.second is None else kinds + 2 * self.second.astype(np.int64)

    def sweeps(self) -> list[Sweep]:
        """What is compared with what."""
        home, second = self.home, self.second
        if second is None:
            homes = np.flatnonzero(home)
            found, visits = [(homes, homes)], [(home, np.flatnonzero(~home))]
        else:
            ours, theirs = home & ~second, home & second
            found = [(np.flatnonzero(ours), np.flatnonzero(theirs))]
            visits = [(ours, np.flatnonzero(~home & second)), (theirs, np.flatnonzero(~home & ~second))]
        for homes_there, guests in visits:
            if self.borders is None:
                found.append((np.flatnonzero(homes_there), guests))
            else:
                found += self.borders.sweeps(homes_there, guests)
        return [(rows, cols) for rows, cols in found if len(rows) and len(cols)]


def sweeps_of(units: Sequence[Unit]) -> list[Sweep]:
    """The sweeps of units whose rows lie one unit after the other."""
    found: list[Sweep] = []
    first = 0
    for unit in units:
        for rows, cols in unit.sweeps():
            moved = rows + first
            found.append((moved, moved if rows is cols else cols + first))
        first += len(unit.home)
    return found


def kinds_of(units: Sequence[Unit]) -> Indices:
    """The kinds of their rows, different in each unit."""
    return np.concatenate([4 * n + unit.kinds for n, unit in enumerate(units)])


def pairs_of(sweep: Sweep) -> int:
    """How many pairs it compares."""
    rows, cols = sweep
    return len(rows) * (len(rows) - 1) // 2 if rows is cols else len(rows) * len(cols)


def among(sweeps: Sequence[Sweep], some: Flags) -> list[Sweep]:
    """The sweeps of some rows among themselves, these rows numbered anew."""
    number = np.cumsum(some) - 1
    found: list[Sweep] = []
    for rows, cols in sweeps:
        a = number[rows[some[rows]]]
        b = a if rows is cols else number[cols[some[cols]]]
        if len(a) and len(b):
            found.append((a, b))
    return found


def halves(sweeps: Sequence[Sweep]) -> tuple[list[Sweep], list[Sweep]]:
    """The same pairs in two lists, about half of the rows in each; one sweep is cut along its longer side.

    A triangle becomes two triangles and what lies between them. Raises ValueError for a single pair.
    """
    if len(sweeps) > 1:
        middle = len(sweeps) // 2
        return list(sweeps[:middle]), list(sweeps[middle:])
    ((rows, cols),) = sweeps
    if pairs_of(sweeps[0]) < 2:
        raise ValueError("a single pair cannot be cut")
    if rows is cols:
        upper, lower = np.split(rows, [len(rows) // 2])
        return [(upper, upper), (lower, lower)], [(lower, upper)]
    if len(rows) < len(cols):
        left, right = np.split(cols, [len(cols) // 2])
        return [(rows, left)], [(rows, right)]
    upper, lower = np.split(rows, [len(rows) // 2])
    return [(upper, cols)], [(lower, cols)]


def tiles(rows: int, cols: int, triangle: bool, size: int) -> Iterator[tuple[slice, slice]]:
    """Cuts rows x cols into tiles of at most size x size; of a triangle those with a row >= their first column."""
    for top in range(0, rows, size):
        bottom = min(top + size, rows)
        for left in range(0, bottom if triangle else cols, size):
            yield slice(top, bottom), slice(left, min(left + size, cols))


def run_starts(rows: NDArray[np.integer]) -> Indices:
    """Where each run of equal rows begins in an (n, c) matrix; [] of none."""
    return np.flatnonzero(np.r_[True, np.any(rows[1:] != rows[:-1], axis=1)][: len(rows)])


def ranges(starts: Indices, counts: Indices) -> Indices:
    """The numbers from each start on, so many as its count, one range after the other."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))


def cut(keys: Indices, cells: Indices, blocks: Indices) -> tuple[Indices, Indices, Indices, Flags]:
    """The units that n placements take part in, where a cell has blocks[cell] blocks.

    keys: (n,) int64 of the clips, at random, which choose the block; cells: (n,), those below zero in one block.
    Returns the placement's number, the blocks a and b of the unit, and `second` as for `Unit`, (u,) each: a
    placement is in the unit of its own block and in those with each other block of its cell.
    """
    count = np.where(cells < 0, 1, blocks[np.maximum(cells, 0)])
    row = np.repeat(np.arange(len(cells)), count)
    other = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    own = ((keys.view(np.uint64) >> np.uint64(11)) % count.astype(np.uint64)).astype(np.int64)[row]
    return row, np.minimum(own, other), np.maximum(own, other), own > other


def blocks_needed(rows_by_cell: Mapping[int, int], max_block_rows: int, cells: int) -> Indices:
    """Into how many blocks to cut each of so many cells, so that none has many more rows than a block may hold."""
    blocks = np.ones(cells, np.int64)
    for cell, rows in rows_by_cell.items():
        blocks[cell] = -(-rows // max_block_rows)
    return blocks
