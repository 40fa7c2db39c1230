"""Cells: the nearest centroid of each embedding, and how far it is."""

import numpy as np

from udfs.vectors import (
    Doubles,
    Indices,
    Matrix,
    best_per_row,
    cosines,
    pair_dots,
    round_down,
    screen_margin,
    squared_norms,
    unit_rows,
)

_BLOCK_ELEMENTS = 1 << 22  # a block of float32 products, rows x centroids: 16 MiB


def assign(vectors: Matrix, centroids: Matrix) -> tuple[Indices, Doubles]:
    """The nearest centroid of each row's direction, and the cosine distance to it.

    vectors: (n, d) float32, no zero row; centroids: (k, d) float32. Nearest is by Euclidean distance from
    x / |x|, that is the largest x·c / |x| - c·c / 2; of equal ones the lowest number. float32 products screen
    the centroids and float64 decides, so the answer does not depend on the batch a row comes in.
    Returns (n,) int64 and (n,) float64, 1 - cosine in [0, 2]; the distance to a zero centroid is 1.
    """
    cluster = np.empty(len(vectors), np.int64)
    x_sq, c_sq = squared_norms(vectors), squared_norms(centroids)
    unit = unit_rows(vectors, x_sq)
    half = (c_sq / 2).astype(np.float32)
    # The margin of unit rows scaled by the centroid's norm, and the rounding of c·c / 2.
    margin = screen_margin(vectors.shape[1]) * float(np.max(np.sqrt(c_sq) + c_sq))
    step = max(1, _BLOCK_ELEMENTS // len(centroids))
    for start in range(0, len(vectors), step):
        rows = slice(start, start + step)
        screen = unit[rows] @ centroids.T - half
        i, j = np.nonzero(screen >= round_down(screen.max(axis=1) - 2 * margin)[:, None])
        if len(i) > len(screen):  # more than one candidate for some row
            value = pair_dots(vectors[rows], i, centroids, j) / np.sqrt(x_sq[rows][i]) - c_sq[j] / 2
            _, j, _ = best_per_row(i, j, value)
        cluster[rows] = j

    with np.errstate(invalid="ignore"):  # a zero centroid has no direction: 0 / 0
        cos = cosines(vectors, np.arange(len(vectors)), centroids, cluster, x_sq, c_sq)
    return cluster, 1.0 - np.nan_to_num(cos)
