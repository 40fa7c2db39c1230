"""The screen on a GPU's tensor cores: products of half-precision coordinates, compared with a floor where they arise.

No product reaches the GPU's memory: one launch goes through all tiles of many sweeps, and what comes back is a flag per
row, or the pairs that reach the floor. The kernels are in cuda/kernels.cu.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udfs.device import beside, launch, on_host, shared_memory, tensor_cores
from udfs.units import Flags, Sweep
from udfs.vectors import Indices, Matrix, round_down

Halves = NDArray[np.float16]

_TILE, _STRIP = 128, 8  # as in kernels.cu: rows or columns of a tile, and tiles of columns of a block
_THREADS = 128


def usable(x: NDArray[Any], m: int) -> bool:
    """Whether rows that lie where x does can be screened so with m coordinates."""
    return not on_host(x) and m > 0 and tensor_cores() and shared_bytes(_width(m + 1)) <= shared_memory()


def halved(bounding: Matrix) -> Halves:
    """Coordinates and the rest's norm, (n, m + 1) float32, in half precision: (n, k), k a multiple of 16 with zeros.

    Coordinates are rounded to the nearest, the norm of the rest upward.
    """
    n, width = bounding.shape
    codes = np.zeros((n, _width(width)), np.float16, like=bounding)
    codes[:, : width - 1] = bounding[:, :-1]
    codes[:, width - 1] = bounding[:, -1] * np.float32(1 + 2.0**-10) + np.float32(2.0**-24)
    return codes


def half_margin(m: int) -> float:
    """How far the exact product of two rows of m coordinates, none longer than 1, can lie above that of `halved` ones.

    Rounding p to p̂ moves it by at most off = 2**-11 |p| + sqrt(m) 2**-25, the second for numbers below 2**-14; so
    p·p' lies within 2 off (1 + off) of p̂·p̂'. The rest is rounded up. Tensor cores multiply exactly, and shift the
    terms of a partial sum to the largest exponent before they add them, cutting off what lies below its 24th bit (Fasi,
    Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7:e330, 2021). With
    sums below 2 each of the m + 1 terms, and each of as many partial sums at most, loses less than 2**-22.
    """
    off = 2.0**-11 + math.sqrt(m) * 2.0**-25
    return 1.01 * (2 * off * (1 + off) + (2 * m + 18) * 2.0**-22)


def mark(codes: Halves, sweeps: Sequence[Sweep], floor: float) -> Flags:
    """(n,) whether a row's product with any row it is compared with reaches the floor."""
    flags = np.zeros(len(codes), np.uint8, like=codes)
    _sweep("mark", codes, sweeps, floor, flags)
    found: Flags = flags.astype(bool)
    return found


def list_pairs(codes: Halves, sweeps: Sequence[Sweep], floor: float, capacity: int) -> tuple[Indices, Indices] | None:
    """The rows i and j of all pairs whose product reaches the floor, or None when they are more than `capacity`."""
    count = np.zeros(1, np.uint32, like=codes)
    pairs = np.empty((capacity, 2), np.int32, like=codes)
    _sweep("list_pairs", codes, sweeps, floor, np.uint32(capacity), count, pairs)
    found = int(count[0])
    if found > capacity:
        return None
    i, j = pairs[:found].astype(np.int64).T
    return i, j


def _sweep(kernel: str, codes: Halves, sweeps: Sequence[Sweep], floor: float, *more: Any) -> None:
    if not sweeps:
        return
    numbers, table, blocks = _described(sweeps)
    width = codes.shape[1]
    work = (beside(codes, numbers), beside(codes, table), np.int32(len(table)))
    args = (codes, *work, round_down(np.float64(floor)), *more)
    launch(kernel, args, blocks, threads=_THREADS, width=width, shared_bytes=shared_bytes(width))


def shared_bytes(width: int) -> int:
    """The shared memory of a block for rows of this width: a tile of rows and two of columns, their rows set apart."""
    return 3 * _TILE * (2 * width + 16)


def _width(numbers: int) -> int:
    return -(-numbers // 16) * 16


def _described(sweeps: Sequence[Sweep]) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """The rows of all sweeps, the `Sweep` structs of the kernels, and how many blocks they take."""
    lists: list[Indices] = []
    table = np.zeros((len(sweeps), 6), np.int32)
    first = block = 0
    for n, (rows, cols) in enumerate(sweeps):
        triangle = rows is cols
        lists += [rows] if triangle else [rows, cols]
        first_col = first if triangle else first + len(rows)
        table[n] = block, first, len(rows), first_col, len(cols), triangle
        first = first_col + len(cols)
        block += -(-len(rows) // _TILE) * -(-len(cols) // (_TILE * _STRIP))
    return np.concatenate(lists).astype(np.int32), table, block
