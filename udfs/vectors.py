"""Embeddings as matrices: packed columns, squared norms, exact cosines, and the float32 screen's margin.

Matrices may lie on the host or on a GPU; packed columns lie on the host.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.device import THREADS, beside, chunk_elements, contiguous, launch, on_host, widened

Matrix = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

_CHUNK_ELEMENTS = 1 << 17  # float64 copies of this many elements stay in a core's cache
_ODD = 0x1E3779B97F4A7C15  # mixes two keys into one
LANES = 128  # of a product in float64: sums that are kept apart until the end


def pack(rows: NDArray[Any]) -> pa.LargeBinaryArray:
    """One little-endian binary value per row of an (n, d) matrix of numbers, without copying it."""
    n, dim = rows.shape
    data = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    offsets = np.arange(n + 1, dtype=np.int64) * (dim * data.itemsize)
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def pack_runs(records: NDArray[Any], ends: Indices) -> pa.BinaryArray:
    """One binary value for each run of records, which ends[i] up to ends[i + 1] bound, (r + 1,)."""
    data = np.ascontiguousarray(records)
    offsets = ends.astype(np.int64) * data.itemsize
    runs = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    return runs.cast(pa.binary())


def unpack(packed: pa.Array, dim: int) -> Matrix:
    """(n, dim) float32 from n non-null binary values of `dim` little-endian float16 or float32 each.

    Raises ValueError when a value has another length.
    """
    return packed_rows(packed, dim).astype(np.float32, copy=False)


def packed_rows(packed: pa.Array, dim: int) -> NDArray[Any]:
    """The same as they come, (n, dim) float16 or float32, mostly without copying them."""
    packed = packed.cast(pa.large_binary())
    offsets = np.frombuffer(packed.buffers()[1], np.int64, len(packed) + 1, packed.offset * 8)
    if len(packed) == 0:
        return np.empty((0, dim), np.float32)
    for dtype in (np.dtype("<f4"), np.dtype("<f2")):
        if np.all(np.diff(offsets) == dim * dtype.itemsize):
            values = np.frombuffer(packed.buffers()[2], dtype, len(packed) * dim, int(offsets[0]))
            return values.reshape(len(packed), dim)
    return np.stack([_unpack_row(value.as_py(), dim) for value in packed])


def unpack_as(packed: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """All records of a dtype in a column of non-null binary values, whichever value they stand in, without copying."""
    packed = packed.cast(pa.large_binary())
    offsets = np.frombuffer(packed.buffers()[1], np.int64, len(packed) + 1, packed.offset * 8)
    count = int(offsets[-1] - offsets[0]) // dtype.itemsize
    return np.frombuffer(packed.buffers()[2] or b"", dtype, count, int(offsets[0]))


def _unpack_row(value: bytes, dim: int) -> Matrix:
    dtype = {2 * dim: "<f2", 4 * dim: "<f4"}.get(len(value))
    if dtype is None:
        raise ValueError(f"an embedding of {len(value)} bytes is neither float16 nor float32 of dimension {dim}")
    return np.frombuffer(value, dtype).astype(np.float32)


def dots(x: Matrix, y: Matrix) -> Doubles:
    """Row-wise dot products of two (n, d) matrices, in float64."""
    rows = np.arange(len(x), like=x)
    return pair_dots(x, rows, y, rows)


def pair_dots(x: Matrix, i: Indices, y: Matrix, j: Indices) -> Doubles:
    """x[i]·y[j] in float64 for (p,) row numbers i of x (n, d) and j of y (m, d), both float32.

    A pair has the same product to the last bit in whatever batch, on whatever processor: products of float32 are
    exact in float64, and they are added in one order. Lane l of `LANES` adds up the products l, l + LANES, ... from
    the first to the last; then the second half of the lanes is added to the first, until one is left.
    """
    out = np.empty(len(i), np.float64, like=x)
    if not on_host(x):
        rows = (contiguous(part) for part in (x, i, y, j))
        args = (*rows, np.int32(x.shape[1]), np.int64(len(i)), out)
        launch("pair_dots", args, blocks=min(-(-len(i) // 8), 1 << 20))
        return out
    step = max(1, _CHUNK_ELEMENTS // max(x.shape[1], 1))
    for start in range(0, len(i), step):  # in chunks, so that the gathered float64 rows never add up
        part = slice(start, start + step)
        out[part] = _row_dots(x[i[part]].astype(np.float64), y[j[part]].astype(np.float64))
    return out


def _row_dots(a: Doubles, b: Doubles) -> Doubles:
    """The rows' products with one another, in the order of `pair_dots`."""
    n, dim = a.shape
    whole = dim - dim % LANES
    if whole == 0:
        lanes = a * b
    else:  # l is contiguous, so einsum adds along t, one after the other
        by_lane = (n, -1, LANES)
        lanes = np.einsum("ntl,ntl->nl", a[:, :whole].reshape(by_lane), b[:, :whole].reshape(by_lane))
        lanes[:, : dim - whole] += a[:, whole:] * b[:, whole:]
    width = min(dim, LANES)
    while width > 1:
        half = 1 << ((width - 1).bit_length() - 1)
        lanes[:, : width - half] += lanes[:, half:width]
        width = half
    return lanes[:, 0]


def squared_norms(x: Matrix) -> Doubles:
    """x·x of each row of an (n, d) matrix, in float64."""
    return dots(x, x)


def cosines(x: Matrix, i: Indices, y: Matrix, j: Indices, x_sq: Doubles, y_sq: Doubles) -> Doubles:
    """The score of each pair (x[i], y[j]): x·y / sqrt((x·x)(y·y)) in float64, clipped to [-1, 1].

    x (n, d) and y (m, d) float32; i and j (p,) row numbers; x_sq and y_sq their squared norms. Written so,
    equal rows score exactly 1: sqrt(a * a) == a in IEEE arithmetic.
    """
    return np.clip(pair_dots(x, i, y, j) / np.sqrt(x_sq[i] * y_sq[j]), -1.0, 1.0)


def unit_rows(x: Matrix, x_sq: Doubles) -> Matrix:
    """The rows of x (n, d) divided by their norms in float64, rounded to float32."""
    unit = np.empty(x.shape, np.float32, like=x)
    step = max(1, chunk_elements(x, _CHUNK_ELEMENTS) // max(x.shape[1], 1))
    for start in range(0, len(x), step):  # in chunks, so that no float64 copy of all of x is made
        rows = slice(start, start + step)
        unit[rows] = unit_doubles(x, x_sq, rows)
    return unit


def unit_doubles(x: Matrix, x_sq: Doubles, rows: Indices | slice) -> Doubles:
    """Some rows of x (n, d) divided by their norms, in float64."""
    unit: Doubles = widened(x[rows]) / np.sqrt(x_sq[rows])[:, None]
    return unit


def screen_margin(dim: int, dtype: type[np.floating[Any]] = np.float32) -> float:
    """How far a product of two unit rows in this precision, float32 or float64, can lie from the true cosine.

    With u = 2**-24, or 2**-53: rounding the two rows moves their product by at most 2u + u**2, and summing d rounded
    products in any order by at most d*u / (1 - d*u) (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1). (d + 4) * u * 1.01 covers both for d up to 100,000.
    """
    return 1.01 * (dim + 4) * float(np.finfo(dtype).eps) / 2


def first_of_equal_rows(x: Matrix, x_sq: Doubles) -> Indices:
    """For each row of x (n, d) the number of the first row with the same bits, (n,) int64.

    Rows meet by their squared norms x_sq (n,), then by their products with one fixed random vector. Where two
    different rows share both, the later one's copies may stay apart, which costs time and never correctness.
    """
    own = np.arange(len(x), dtype=np.int64, like=x)
    _, group, size = np.unique(x_sq, return_inverse=True, return_counts=True)
    twins = np.flatnonzero(size[group] > 1)
    if len(twins) == 0:
        return own
    probe = np.random.default_rng(0).standard_normal((1, x.shape[1]), dtype=np.float32)
    product = pair_dots(x, twins, beside(x, probe), np.zeros_like(twins))
    keys = x_sq[twins].view(np.int64) * np.int64(_ODD) ^ product.view(np.int64)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    candidate = twins[first[group]]
    later = candidate != twins
    twins, candidate = twins[later], candidate[later]
    step = max(1, chunk_elements(x, _CHUNK_ELEMENTS) // max(x.shape[1], 1))
    bits = x.view(np.uint32)
    for start in range(0, len(twins), step):
        rows, firsts = twins[start : start + step], candidate[start : start + step]
        same = np.all(bits[rows] == bits[firsts], axis=1)
        own[rows[same]] = firsts[same]
    return own


def raise_best(best: Doubles, rows: Indices, scores: Doubles) -> None:
    """Raise best (n,) to the highest of the scores (p,) of each of the rows (p,) named."""
    if on_host(best):
        np.maximum.at(best, rows, scores)
    else:
        launch("raise_best", (rows, scores, np.int64(len(rows)), best), blocks=-(-len(rows) // THREADS))


def first_of_best(first: Indices, rows: Indices, cols: Indices, scores: Doubles, best: Doubles) -> None:
    """Lower first (n,) to the lowest column of the pairs (p,) that have the best score (n,) of their row."""
    if on_host(first):
        equal = scores == best[rows]
        np.minimum.at(first, rows[equal], cols[equal])
    else:
        args = (rows, cols, scores, np.int64(len(rows)), best, first)
        launch("first_of_best", args, blocks=-(-len(rows) // THREADS))


def round_down(x: Doubles | Matrix | np.float64, dtype: Any = np.float32) -> Any:
    """Numbers of a floating dtype that are not above x."""
    return np.nextafter(x.astype(dtype), dtype(-np.inf))
