"""The kernels in NumPy, one call each: for runs too large for ../block.cpp. With KERNELS=numpy in the environment."""

from typing import Any

import numpy as np

_TILE = 2048


def _pairs(codes: Any, numbers: Any, sweeps: Any, floor: Any) -> Any:
    """The rows of the pairs that reach the floor, some after the other."""
    x = codes.astype(np.float32)
    for _, first_row, row_count, first_col, col_count, triangle in sweeps.tolist():
        a, b = numbers[first_row : first_row + row_count], numbers[first_col : first_col + col_count]
        for top in range(0, row_count, _TILE):
            for left in range(0, top + 1 if triangle else col_count, _TILE):
                i, j = np.nonzero(x[a[top : top + _TILE]] @ x[b[left : left + _TILE]].T >= floor)
                i, j = i + top, j + left
                some = j < i if triangle else slice(None)
                yield a[i[some]], b[j[some]]


def mark(codes: Any, numbers: Any, sweeps: Any, _count: Any, floor: Any, flags: Any) -> None:
    for i, j in _pairs(codes, numbers, sweeps, floor):
        flags[i] = flags[j] = 1


def list_pairs(
    codes: Any, numbers: Any, sweeps: Any, _count: Any, floor: Any, capacity: Any, count: Any, pairs: Any
) -> None:
    at = 0
    for i, j in _pairs(codes, numbers, sweeps, floor):
        if at + len(i) <= capacity:
            pairs[at : at + len(i), 0], pairs[at : at + len(i), 1] = i, j
        at += len(i)
    count[0] = at


def pair_dots(x: Any, i: Any, y: Any, j: Any, dim: Any, _pairs: Any, out: Any) -> None:
    for start in range(0, len(i), 512):
        part = slice(start, start + 512)
        lanes = np.zeros((len(i[part]), 128))
        for left in range(0, int(dim), 128):
            product = x[i[part], left : left + 128].astype(float) * y[j[part], left : left + 128]
            lanes[:, : product.shape[1]] += product
        for half in (64, 32, 16, 8, 4, 2, 1):
            lanes[:, :half] += lanes[:, half : 2 * half]
        out[part] = lanes[:, 0]


def raise_best(row: Any, score: Any, _pairs: Any, best: Any) -> None:
    np.maximum.at(best, row, score)


def first_of_best(row: Any, col: Any, score: Any, _pairs: Any, best: Any, first: Any) -> None:
    equal = score == best[row]
    np.minimum.at(first, row[equal], col[equal])


def widen(x: Any, _size: Any, y: Any) -> None:
    y[...] = x
