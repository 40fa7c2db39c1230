"""Cosines of rows that lie closer together than float32 can tell unit rows apart."""

import math

import numpy as np

from udfs.device import chunk_elements
from udfs.vectors import Doubles, Indices, Matrix, screen_margin, unit_doubles

_REACH = 4  # times the median distance from the centre; rows beyond are not of the group
_CLOSE = 0.25  # a reach beyond gains little
_CANDIDATES = 8  # for a centre
_CHUNK_ROWS = 1024


def centre_of(x: Matrix, x_sq: Doubles, rows: Indices) -> Indices:
    """The one of a few of these rows of x (n, d) that most of them lie close to, or none."""
    unit = unit_doubles(x, x_sq, rows)
    step = -(-len(rows) // _CANDIDATES)
    middle = np.median(unit @ unit[::step].T, axis=0)
    best = int(np.argmax(middle))
    close = _REACH * math.sqrt(max(2 - 2 * float(middle[best]), 0)) <= _CLOSE
    return rows[best * step : best * step + 1] if close else rows[:0]


class Centred:
    """The unit rows of x (n, d), with squared norms x_sq (n,), as differences from one of them, the centre c.

    x·y = x·c + y·c - c·c + (x - c)·(y - c), where the last term is small for rows near the centre, and with it the
    error of computing it in float32.
    """

    def __init__(self, x: Matrix, x_sq: Doubles, centre: int) -> None:
        self._x, self._x_sq = x, x_sq
        self._off = np.empty(x.shape, np.float32, like=x)
        self._along, self._distance = np.empty((2, len(x)), like=x)
        c = unit_doubles(x, x_sq, slice(centre, centre + 1))[0]
        step = chunk_elements(x, _CHUNK_ROWS * x.shape[1]) // x.shape[1]
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            unit = unit_doubles(x, x_sq, rows)
            off = unit - c
            self._off[rows] = off
            self._along[rows] = unit @ c - (c @ c) / 2
            self._distance[rows] = np.sqrt(np.einsum("ij,ij->i", off, off))

    def cosines(self, rows: Indices, cols: Indices) -> tuple[Doubles, float] | None:
        """The cosine of each of these rows with each of those, (r, c) float64, and how far it may be off.

        The bound is that of float32 (`screen_margin`) times the two distances from the centre, and a dozen times
        that of float64 for the rest. Few rows far from the centre are multiplied in float64; None when they are many.
        """
        to_rows, to_cols = self._distance[rows], self._distance[cols]
        reach = _REACH * max(float(np.median(to_rows)), float(np.median(to_cols)))
        far_rows, far_cols = np.flatnonzero(to_rows > reach), np.flatnonzero(to_cols > reach)
        if reach > _CLOSE or 4 * (len(far_rows) + len(far_cols)) > len(rows) + len(cols):
            return None
        cosine = (self._off[rows] @ self._off[cols].T).astype(np.float64)
        cosine += self._along[rows][:, None]
        cosine += self._along[cols]
        if len(far_rows):
            cosine[far_rows] = self._unit(rows[far_rows]) @ self._unit(cols).T
        if len(far_cols):
            cosine[:, far_cols] = self._unit(rows) @ self._unit(cols[far_cols]).T
        dim = self._x.shape[1]
        return cosine, screen_margin(dim) * reach**2 + 12 * screen_margin(dim, np.float64)

    def _unit(self, rows: Indices) -> Doubles:
        return unit_doubles(self._x, self._x_sq, rows)
