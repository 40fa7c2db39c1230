"""Units of work: which clips of a cell are compared with which.

A cell compares its own clips with all it holds, never guest with guest. A cell too large for one task is cut into
blocks, and a unit is a pair of blocks (a, b), a <= b: the pairs with one clip in each, or those within one block.
"""

import dataclasses
from collections.abc import Iterator, Mapping

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


def sweeps(home: Flags, second: Flags | None = None, borders: Borders | None = None) -> list[Sweep]:
    """What a unit of n rows compares.

    home: (n,) whether a row is at home in the cell; second: (n,) whether it lies in the second of two blocks, or
    None where the unit is one block. With borders a guest is compared only with those near the border to its home.
    """
    if second is None:
        homes = np.flatnonzero(home)
        found, visits = [(homes, homes)], [(home, np.flatnonzero(~home))]
    else:
        found = [(np.flatnonzero(home & ~second), np.flatnonzero(home & second))]
        visits = [(home & ~second, np.flatnonzero(~home & second)), (home & second, np.flatnonzero(~home & ~second))]
    for homes_there, guests in visits:
        if borders is None:
            found.append((np.flatnonzero(homes_there), guests))
        else:
            found += borders.sweeps(homes_there, guests)
    return [(rows, cols) for rows, cols in found if len(rows) and len(cols)]


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
    Returns the placement's number, the blocks a and b of the unit, and `second` as for `sweeps`, (u,) each: a
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
