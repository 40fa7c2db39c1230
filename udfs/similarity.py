"""The match of each clip: the most similar clip that is earlier in rank."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from udfs import tensor_screen
from udfs.centred import Centred, centre_of
from udfs.device import beside, to_gpu, to_host
from udfs.parts import in_parts
from udfs.sketches import coordinate_margin, coordinates
from udfs.tensor_screen import half_margin, halved, list_pairs
from udfs.units import Sweep, Unit, among, halves, kinds_of, pairs_of, sweeps_of, tiles
from udfs.vectors import (
    Doubles,
    Indices,
    Matrix,
    cosines,
    first_of_best,
    first_of_equal_rows,
    raise_best,
    round_down,
    screen_margin,
    squared_norms,
    unit_doubles,
    unit_rows,
)

TILE_ROWS = 512  # a float32 tile of 1 MiB stays in a core's cache
GPU_TILE_ROWS = 2048  # enough to keep a GPU busy

_DENSE = 32  # a tile with more than one candidate in so many pairs is cheaper computed in full
_CENTRES = 2  # in a row of tiles: each costs as much as a few tiles
_PENDING = 1 << 18  # candidate pairs to gather before they are scored
_ROW_COPIES = 4  # of a float32 row, on a GPU: as it came, without copies, as a unit row, and of some in float64
_LISTED = 1 << 22  # candidate pairs that a GPU lists at once


def match_earlier(
    vectors: Matrix,
    min_score: float,
    basis: Doubles | None = None,
    units: Sequence[Unit] | None = None,
    tile_rows: int = TILE_ROWS,
) -> tuple[Indices, Doubles, dict[str, int]]:
    """For each row the best-scoring earlier row of its unit, exactly as float64 brute force finds it.

    vectors: (n, d) float32 without a zero row: the rows of the units, one unit after the other, each in rank order;
    without units all rows are one, and all compared. basis: (d, m) float64 with orthonormal columns, for the screen;
    without columns, or without a basis, every tile is computed in full.

    Returns the row number of the match, (n,) int64 with -1 for none; its cosine, (n,) float64 with NaN for none;
    and counts of the work: `pairs` bounded, `scored` in float64. A match scores at least `min_score`; of equal
    scores the earliest row wins. Memory beside the input: three float32 copies of it and a few tiles.
    """
    units = [Unit(np.ones(len(vectors), bool))] if units is None else units
    return match_sweeps(vectors, min_score, basis, sweeps_of(units), kinds_of(units), tile_rows)


def match_sweeps(
    vectors: Matrix,
    min_score: float,
    basis: Doubles | None,
    sweeps: Sequence[Sweep],
    kinds: Indices,
    tile_rows: int = TILE_ROWS,
) -> tuple[Indices, Doubles, dict[str, int]]:
    """The same for any sweeps, where rows of one of the kinds (n,) are compared with the same rows.

    vectors and basis may lie on a GPU; all else, the result too, is on the host.
    """
    n = len(vectors)
    basis = np.empty((vectors.shape[1], 0)) if basis is None else basis
    x_sq = squared_norms(vectors)
    leader = _leaders(to_host(first_of_equal_rows(vectors, x_sq)), kinds)
    leads = leader == np.arange(n)
    if leads.all():
        return _Matcher(vectors, x_sq, min_score, basis).run(sweeps, tile_rows)

    leaders = np.flatnonzero(leads)
    kept = beside(vectors, leaders)
    leader_match, leader_score, counts = _Matcher(vectors[kept], x_sq[kept], min_score, basis).run(
        among(sweeps, leads), tile_rows
    )
    match = np.full(n, -1, np.int64)
    score = np.full(n, np.nan)
    matched = leader_match >= 0
    match[leaders[matched]] = leaders[leader_match[matched]]
    score[leaders] = leader_score
    followers = np.flatnonzero(~leads)
    leader = leader[followers]
    # A follower scores 1 with its leader, and with the leader's own match where that scores 1 as well.
    match[followers] = np.where(score[leader] == 1.0, match[leader], leader)
    score[followers] = 1.0
    return match, score, counts


def match_on_gpu(
    vectors: Matrix | NDArray[np.float16], min_score: float, basis: Doubles, units: Sequence[Unit]
) -> tuple[Indices, Doubles, dict[str, int]]:
    """The same as `match_earlier`, on the current GPU, in as many parts as its memory asks for.

    vectors and basis lie on the host; vectors may be float16.
    """
    n, dim = vectors.shape
    match, score = np.full(n, -1, np.int64), np.full(n, np.nan)
    total = {"pairs": 0, "scored": 0}
    sweeps, kinds, axes = sweeps_of(units), kinds_of(units), to_gpu(basis)

    def work(rows: Indices, part: list[Sweep]) -> None:
        x = to_gpu(vectors if len(rows) == n else vectors[rows]).astype(np.float32, copy=False)
        part_match, part_score, counts = match_sweeps(x, min_score, axes, part, kinds[rows], GPU_TILE_ROWS)
        earlier = np.where(part_match >= 0, rows[part_match], n)
        before = np.where(match[rows] >= 0, match[rows], n)
        better = (part_match >= 0) & ~(part_score < score[rows])
        better &= (part_score != score[rows]) | (earlier < before)
        match[rows[better]], score[rows[better]] = earlier[better], part_score[better]
        for name, count in counts.items():
            total[name] += count

    in_parts(sweeps, n, _ROW_COPIES * 4 * dim + 16 * basis.shape[1] + 128, work)
    return match, score, total


def _leaders(first: Indices, kinds: Indices) -> Indices:
    """Of equal rows, given by the first of them, the first of each kind: it matches for all of that kind."""
    leader = np.arange(len(first))
    copies = np.flatnonzero(first != leader)
    if len(copies) == 0:
        return leader
    alike = np.union1d(copies, first[copies])
    keys = first[alike] * (kinds.max() + 1) + kinds[alike]
    _, first_of_kind, group = np.unique(keys, return_index=True, return_inverse=True)
    leader[alike] = alike[first_of_kind[group]]
    return leader


class _Matcher:
    """The best earlier row of each row, found tile by tile."""

    def __init__(self, x: Matrix, x_sq: Doubles, min_score: float, basis: Doubles) -> None:
        self._x, self._x_sq, self._min_score = x, x_sq, min_score
        self._unit = unit_rows(x, x_sq)
        self._screened = basis.shape[1] > 0
        self._coordinates = coordinates(self._unit, basis) if self._screened else self._unit[:, :0]
        self._floor = round_down(np.float64(min_score - coordinate_margin(basis.shape[1])))
        self._match = np.full_like(x_sq, len(x), np.int64)  # beyond all rows: none
        self._score = np.full_like(x_sq, min_score)
        self._counts = {"pairs": 0, "scored": 0}
        self._pending: list[tuple[Indices, Indices]] = []
        self._centred: Centred | None = None
        self._centres_left = _CENTRES  # for this row of tiles

    def run(self, sweeps: Sequence[Sweep], tile_rows: int) -> tuple[Indices, Doubles, dict[str, int]]:
        self._counts["pairs"] = sum(map(pairs_of, sweeps))
        if tensor_screen.usable(self._x, self._coordinates.shape[1] - 1):
            self._on_tensor_cores(sweeps)
        else:
            for sweep in sweeps:
                self._by_tiles(sweep, tile_rows)
        self._settle()
        match, score = to_host(self._match), to_host(self._score)
        matched = match < len(match)
        return np.where(matched, match, -1), np.where(matched, score, np.nan), self._counts

    def _on_tensor_cores(self, sweeps: Sequence[Sweep]) -> None:
        """Many sweeps at once; those with too many candidates to list are cut, down to tiles computed in full."""
        codes = halved(self._coordinates)
        floor = float(self._floor) - half_margin(self._coordinates.shape[1] - 1)
        left = [list(sweeps)]
        while left:
            part = left.pop()
            found = list_pairs(codes, part, floor, _LISTED)
            if len(part) == 1 and max(map(len, part[0])) <= GPU_TILE_ROWS:
                rows, cols = part[0]
                if found is None or len(found[0]) * _DENSE > pairs_of(part[0]):
                    self._centres_left = _CENTRES
                    self._dense(beside(self._x, rows), beside(self._x, cols), rows is cols)
                    continue
            if found is None:
                left += halves(part)
            else:
                self._add(*found)

    def _by_tiles(self, sweep: Sweep, tile_rows: int) -> None:
        triangle = sweep[0] is sweep[1]
        rows = beside(self._x, sweep[0])
        cols = rows if triangle else beside(self._x, sweep[1])
        a = self._coordinates[rows]
        b = a if triangle else self._coordinates[cols]
        for i, j in tiles(len(rows), len(cols), triangle, tile_rows):
            if j.start == 0:
                self._centres_left = _CENTRES
            diagonal = triangle and i == j
            if self._screened:
                bound = a[i] @ b[j].T
                if diagonal:
                    own = np.arange(len(bound), like=bound)
                    bound[own[:, None] <= own] = -np.inf
                if bound.max() < self._floor:
                    continue
                hits = np.flatnonzero(bound >= self._floor)
                if len(hits) * _DENSE <= bound.size:
                    p, q = np.divmod(hits, bound.shape[1])
                    self._add(rows[i][p], cols[j][q])
                    continue
            self._dense(rows[i], cols[j], diagonal)

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
        before = self._score.copy()
        raise_best(self._score, later, score)
        np.copyto(self._match, len(self._match), where=self._score > before)
        first_of_best(self._match, later, earlier, score, self._score)

    def _dense(self, rows: Indices, cols: Indices, diagonal: bool) -> None:
        """A tile in full: only the pairs that may be the best of their later row are scored.

        Where a whole group is more alike than float32 can tell apart, finer products narrow it down.
        """
        self._settle()  # the scores so far raise the bar
        for product, margin in self._products(rows, cols):
            p, q = self._candidates(product, rows, cols, margin)
            if not diagonal:
                t, s = self._candidates(product.T, cols, rows, margin)
                p, q = np.concatenate([p, s]), np.concatenate([q, t])
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
        done = (self._score[rows] == 1.0) & (self._match[rows] < others[0])
        return np.where(done, 2.0, self._score[rows])
