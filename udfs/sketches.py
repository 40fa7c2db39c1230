"""Sketches: a few coordinates of each embedding that bound its cosine with any other from above.

With B (d, m) of orthonormal columns, a unit vector x is B p + r with p = B'x, and by Cauchy-Schwarz
x·y <= p(x)·p(y) + |r(x)| |r(y)|: a product of m + 1 numbers. A pair whose bound misses the threshold is out,
provably. The coordinates are stored rounded, p̂; then r = x - B p̂ has |r|^2 = |x|^2 - |p|^2 + |p - p̂|^2, which is
rounded up, and x·y exceeds the bound by no more than |p̂(x)| |p - p̂|(y) + |p̂(y)| |p - p̂|(x).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from udfs.device import chunk_elements
from udfs.vectors import Doubles, Matrix

Codes = np.ndarray[Any, np.dtype[np.int16]]

SCALE = 32700  # of a coordinate of 1, with room for the rounding in 16 bits

_CHUNK_ROWS = 1024
_U32 = 2.0**-24


def principal_basis(unit: Matrix) -> Doubles:
    """All principal directions of unit rows (n, d) about the origin, (d, d) float64, the strongest first."""
    moments = np.zeros((unit.shape[1], unit.shape[1]))
    for start in range(0, len(unit), _CHUNK_ROWS):
        part = unit[start : start + _CHUNK_ROWS].astype(np.float64)
        moments += part.T @ part
    return np.ascontiguousarray(np.linalg.eigh(moments)[1][:, ::-1])


def sketch(unit: Matrix, basis: Doubles) -> Codes:
    """Sketches of unit rows (n, d): (n, m + 1) int16, coordinates in units of 1 / SCALE and the rest's norm."""
    codes = np.empty((len(unit), basis.shape[1] + 1), np.int16, like=unit)
    for rows, x, p in _rotated(unit, basis):
        rounded = np.rint(p * SCALE)
        codes[rows, :-1] = rounded
        codes[rows, -1] = np.ceil(_rest(x, p, rounded / SCALE) * SCALE)
    return codes


def coordinates(unit: Matrix, basis: Doubles) -> Matrix:
    """The same in full precision: (n, m + 1) float32."""
    out = np.empty((len(unit), basis.shape[1] + 1), np.float32, like=unit)
    for rows, x, p in _rotated(unit, basis):
        out[rows, :-1] = p
        rest = _rest(x, p, out[rows, :-1].astype(np.float64))
        out[rows, -1] = np.nextafter(rest.astype(np.float32), np.float32(np.inf))
    return out


def _rotated(unit: Matrix, basis: Doubles) -> Iterator[tuple[slice, Doubles, Doubles]]:
    """Some rows after the other, in float64: which they are, they, and their coordinates."""
    step = chunk_elements(unit, _CHUNK_ROWS * unit.shape[1]) // unit.shape[1]
    for start in range(0, len(unit), step):
        rows = slice(start, start + step)
        x = unit[rows].astype(np.float64)
        yield rows, x, x @ basis


def _rest(x: Doubles, p: Doubles, rounded: Doubles) -> Doubles:
    """An upper bound of |x - B p̂|; near |p| = |x| a plain difference of squares would lose all its digits."""
    rounding = 16 * (x.shape[1] + 8) * 2.0**-53
    off = p - rounded
    squared = np.einsum("ij,ij->i", x, x) - np.einsum("ij,ij->i", p, p) + np.einsum("ij,ij->i", off, off)
    rest: Doubles = np.sqrt(np.maximum(squared, 0) + rounding)
    return rest


def sketch_margin(m: int) -> float:
    """How far a cosine can lie above the float32 product of two `sketch` rows of m coordinates, over SCALE^2."""
    return _margin(m, 0.5 * math.sqrt(m) / SCALE)


def coordinate_margin(m: int) -> float:
    """How far a cosine can lie above the float32 product of two `coordinates` rows of m coordinates."""
    return _margin(m, _U32)


def _margin(m: int, off: float) -> float:
    """With |p - p̂| <= off and u = 2**-24: the cross terms 2 off (1 + off); 2u + u^2 for taking the rows as unit
    rows in float32; (m + 2) u for summing m + 1 rounded products (Higham, section 3.1); 1% for the higher orders.
    """
    return 1.01 * (2 * off * (1 + off) + (m + 8) * _U32)
