"""The match of each clip: the most similar clip that is earlier in rank."""

import numpy as np

from udfs.vectors import (
    Doubles,
    Indices,
    Matrix,
    best_per_row,
    cosines,
    first_of_equal_rows,
    round_down,
    screen_margin,
    squared_norms,
    unit_rows,
)

TILE_ROWS = 1024  # a float32 tile of 1024 x 1024 is 4 MiB


def match_earlier(vectors: Matrix, min_score: float, tile_rows: int = TILE_ROWS) -> tuple[Indices, Doubles]:
    """For each row the best-scoring row before it, exactly as float64 brute force finds it.

    vectors: (n, d) float32 in rank order, no zero row. Returns the row number of the match, (n,) int64 with
    -1 for none, and its cosine, (n,) float64 with NaN for none. A match scores at least `min_score`; of equal
    scores the earliest row wins. Memory beside the input: two float32 copies of it and a few tiles.
    """
    x_sq = squared_norms(vectors)
    first = first_of_equal_rows(vectors)
    # Equal rows have equal scores, so the first of them matches for all.
    leaders = np.flatnonzero(first == np.arange(len(vectors)))
    leader_match, leader_score = _match_tiles(vectors[leaders], x_sq[leaders], min_score, tile_rows)

    match = np.full(len(vectors), -1, np.int64)
    score = np.full(len(vectors), np.nan)
    matched = leader_match >= 0
    match[leaders[matched]] = leaders[leader_match[matched]]
    score[leaders] = leader_score
    followers = np.flatnonzero(first != np.arange(len(vectors)))
    leader = first[followers]
    # A follower scores 1 with its leader, and with the leader's own match where that scores 1 as well.
    match[followers] = np.where(score[leader] == 1.0, match[leader], leader)
    score[followers] = 1.0
    return match, score


def _match_tiles(x: Matrix, x_sq: Doubles, min_score: float, tile_rows: int) -> tuple[Indices, Doubles]:
    """`match_earlier` by triangular tiles: float32 products screen the pairs, float64 cosines decide."""
    n = len(x)
    margin = screen_margin(x.shape[1])
    unit = unit_rows(x, x_sq)
    match = np.full(n, -1, np.int64)
    score = np.full(n, min_score)
    for top in range(0, n, tile_rows):
        rows = slice(top, min(top + tile_rows, n))
        for left in range(0, rows.stop, tile_rows):
            cols = slice(left, min(left + tile_rows, rows.stop))
            screen = unit[rows] @ unit[cols].T
            if left == top:
                screen[np.triu_indices(len(screen))] = -2.0
            i, j = _candidates(screen, score[rows], margin)
            if len(i) == 0:
                continue
            i, j, s = best_per_row(i + top, j + left, cosines(x, i + top, x, j + left, x_sq, x_sq))
            # Tiles come left to right: on equal scores the earlier match stays.
            better = (s > score[i]) | ((s == score[i]) & (match[i] < 0))
            match[i[better]], score[i[better]] = j[better], s[better]
    return match, np.where(match >= 0, score, np.nan)


def _candidates(screen: Matrix, score: Doubles, margin: float) -> tuple[Indices, Indices]:
    """The pairs of a tile whose cosine may be their row's best and at least the score it has already."""
    highest = screen.max(axis=1)
    floor = round_down(np.maximum(score - margin, highest - 2 * margin))
    hit = np.flatnonzero(highest >= floor)
    i, j = np.nonzero(screen[hit] >= floor[hit, None])
    return hit[i], j
