"""The match of each clip: the most similar clip that is earlier in rank."""

from collections.abc import Iterator

import numpy as np

from udfs.centred import Centred, centre_of
from udfs.sketches import coordinate_margin, coordinates
from udfs.units import Flags, sweeps, tiles
from udfs.vectors import (
    Doubles,
    Indices,
    Matrix,
    cosines,
    first_of_equal_rows,
    round_down,
    screen_margin,
    squared_norms,
    unit_doubles,
    unit_rows,
)

TILE_ROWS = 512  # a float32 tile of 1 MiB stays in a core's cache

_DENSE = 32  # a tile with more than one candidate in so many pairs is cheaper computed in full
_CENTRES = 2  # in a row of tiles: each costs as much as a few tiles
_PENDING = 1 << 18  # candidate pairs to gather before they are scored


def match_earlier(
    vectors: Matrix,
    min_score: float,
    basis: Doubles | None = None,
    home: Flags | None = None,
    second: Flags | None = None,
    tile_rows: int = TILE_ROWS,
) -> tuple[Indices, Doubles, dict[str, int]]:
    """For each row the best-scoring row before it, exactly as float64 brute force finds it.

    vectors: (n, d) float32 in rank order, no zero row. home and second say which rows a unit compares, as for
    `sweeps`; without them all are. basis: (d, m) float64 with orthonormal columns, for the screen; without
    columns, or without a basis, every tile is computed in full.

    Returns the row number of the match, (n,) int64 with -1 for none; its cosine, (n,) float64 with NaN for none;
    and counts of the work: `pairs` bounded, `scored` in float64. A match scores at least `min_score`; of equal
    scores the earliest row wins. Memory beside the input: three float32 copies of it and a few tiles.
    """
    n = len(vectors)
    basis = np.empty((vectors.shape[1], 0)) if basis is None else basis
    x_sq = squared_norms(vectors)
    first = first_of_equal_rows(vectors, x_sq)
    home = np.ones(n, bool) if home is None else home
    # Equal rows have equal scores, so of those compared with the same rows the first matches for all.
    kind = home.astype(np.int64) + (0 if second is None else 2 * second.astype(np.int64))
    _, first_of_kind, group = np.unique(4 * first + kind, return_index=True, return_inverse=True)
    first = first_of_kind[group]
    leaders = np.flatnonzero(first == np.arange(n))
    if len(leaders) == n:
        return _Matcher(vectors, x_sq, min_score, basis).run(home, second, tile_rows)

    found = _Matcher(vectors[leaders], x_sq[leaders], min_score, basis)
    leader_match, leader_score, counts = found.run(
        home[leaders], None if second is None else second[leaders], tile_rows
    )
    match = np.full(n, -1, np.int64)
    score = np.full(n, np.nan)
    matched = leader_match >= 0
    match[leaders[matched]] = leaders[leader_match[matched]]
    score[leaders] = leader_score
    followers = np.flatnonzero(first != np.arange(n))
    leader = first[followers]
    # A follower scores 1 with its leader, and with the leader's own match where that scores 1 as well.
    match[followers] = np.where(score[leader] == 1.0, match[leader], leader)
    score[followers] = 1.0
    return match, score, counts


class _Matcher:
    """The best earlier row of each row, found tile by tile."""

    def __init__(self, x: Matrix, x_sq: Doubles, min_score: float, basis: Doubles) -> None:
        self._x, self._x_sq, self._min_score = x, x_sq, min_score
        self._unit = unit_rows(x, x_sq)
        self._screened = basis.shape[1] > 0
        self._coordinates = coordinates(self._unit, basis) if self._screened else self._unit[:, :0]
        self._floor = round_down(np.float64(min_score - coordinate_margin(basis.shape[1])))
        self._match = np.full(len(x), -1, np.int64)
        self._score = np.full(len(x), min_score)
        self._counts = {"pairs": 0, "scored": 0}
        self._pending: list[tuple[Indices, Indices]] = []
        self._centred: Centred | None = None
        self._centres_left = _CENTRES  # for this row of tiles

    def run(self, home: Flags, second: Flags | None, tile_rows: int) -> tuple[Indices, Doubles, dict[str, int]]:
        for rows, cols in sweeps(home, second):
            triangle = rows is cols
            a = self._coordinates[rows]
            b = a if triangle else self._coordinates[cols]
            for i, j in tiles(len(rows), len(cols), triangle, tile_rows):
                if j.start == 0:
                    self._centres_left = _CENTRES
                diagonal = triangle and i == j
                self._counts["pairs"] += (i.stop - i.start) * (j.stop - j.start) // (2 if diagonal else 1)
                if self._screened:
                    bound = a[i] @ b[j].T
                    if diagonal:
                        bound[np.triu_indices(len(bound))] = -np.inf
                    if bound.max(initial=-np.inf) < self._floor:
                        continue
                    hits = np.flatnonzero(bound >= self._floor)
                    if len(hits) * _DENSE <= bound.size:
                        p, q = np.divmod(hits, bound.shape[1])
                        self._add(rows[i][p], cols[j][q])
                        continue
                self._dense(rows[i], cols[j], diagonal)
        self._settle()
        return self._match, np.where(self._match >= 0, self._score, np.nan), self._counts

    def _add(self, i: Indices, j: Indices) -> None:
        """Pairs that may match, to be scored with others."""
        if len(i) == 0:
            return
        self._pending.append((i, j))
        if sum(len(i) for i, _ in self._pending) > _PENDING:
            self._settle()

    def _settle(self) -> None:
        """Score the pending pairs in float64 and keep the best of each later row."""
        if not self._pending:
            return
        i, j = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        self._pending = []
        self._counts["scored"] += len(i)
        later, earlier = np.maximum(i, j), np.minimum(i, j)
        score = cosines(self._x, later, self._x, earlier, self._x_sq, self._x_sq)
        better = (score > self._score[later]) | (
            (score == self._score[later]) & ((self._match[later] < 0) | (earlier < self._match[later]))
        )
        later, earlier, score = later[better], earlier[better], score[better]
        order = np.lexsort((earlier, -score, later))
        later, earlier, score = later[order], earlier[order], score[order]
        first = np.flatnonzero(np.r_[True, later[1:] != later[:-1]][: len(later)])
        self._match[later[first]], self._score[later[first]] = earlier[first], score[first]

    def _dense(self, rows: Indices, cols: Indices, diagonal: bool) -> None:
        """A tile in full: only the pairs that may be the best of their later row are scored.

        Where a whole group is more alike than float32 can tell apart, finer products narrow it down.
        """
        self._settle()  # the scores so far raise the bar
        for product, margin in self._products(rows, cols):
            p, q = self._candidates(product, rows, cols, margin)
            if not diagonal:
                t, s = self._candidates(product.T, cols, rows, margin)
                p, q = np.r_[p, s], np.r_[q, t]
            if len(p) * _DENSE <= product.size:
                break
        self._add(rows[p], cols[q])

    def _products(self, rows: Indices, cols: Indices) -> Iterator[tuple[Matrix | Doubles, float]]:
        """The cosines of a tile, finer each time, and how far they may lie from the scores.

        From the centre of the group before, where that serves; in float32; from a centre of this tile; in float64.
        """
        before = self._centred and self._centred.cosines(rows, cols)
        if before:
            yield before
        yield self._unit[rows] @ self._unit[cols].T, screen_margin(self._x.shape[1])
        centre = centre_of(self._x, self._x_sq, cols) if self._centres_left else rows[:0]
        if len(centre):
            self._centred, self._centres_left = Centred(self._x, self._x_sq, int(centre[0])), self._centres_left - 1
            here = self._centred.cosines(rows, cols)
            if here:
                yield here
        a, b = (unit_doubles(self._x, self._x_sq, some) for some in (rows, cols))
        yield a @ b.T, 4 * screen_margin(self._x.shape[1], np.float64)  # the score itself has this precision

    def _candidates(
        self, product: Matrix | Doubles, rows: Indices, others: Indices, margin: float
    ) -> tuple[Indices, Indices]:
        """The pairs of a tile whose cosine may be the best of their row with an earlier one, and raise its score."""
        if rows[0] <= others[-1]:  # not all of these come after all of those
            if rows[-1] <= others[0]:
                return rows[:0], rows[:0]
            product = np.where(rows[:, None] > others, product, -2)
        bar = self._bar(rows, others)
        highest = product.max(axis=1)
        floor = round_down(np.maximum(bar - margin, highest - 2 * margin), product.dtype.type)
        hit = np.flatnonzero(highest >= floor)
        i, j = np.nonzero(product[hit] >= floor[hit, None])
        return hit[i], j

    def _bar(self, rows: Indices, others: Indices) -> Doubles:
        """The score each row has to reach; a row that has 1 from an earlier row than all of these is done."""
        done = (self._score[rows] == 1.0) & (self._match[rows] >= 0) & (self._match[rows] < others[0])
        return np.where(done, 2.0, self._score[rows])
