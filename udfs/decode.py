"""Clip files (`.pickle`, `.pkl`, `.npy`) to vectors. No code from a file ever runs."""

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.reasons import NOT_FINITE, TOO_LARGE, UNREADABLE, WRONG_DIMENSION, WRONG_DTYPE, ZERO_NORM, RejectedError
from udfs.unpickler import build_array, read_pickle

SUFFIXES = (".pickle", ".pkl", ".npy")

MAX_BYTES = 16 << 20  # of a clip file; larger ones are rejected without being read
MAX_DIM = MAX_BYTES // 8


class Decoded(NamedTuple):
    """One clip: its packed embedding, or the reason there is none."""

    embedding: bytes | None
    dim: int | None
    reason: str | None


def clip_id(path: str) -> str:
    """The id of a clip file: its name without the suffix."""
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def decode_clip(path: str, content: bytes) -> Decoded:
    """The embedding in one clip file: an array of shape (d,) or (1, d), float16, float32 or float64.

    float64 is rounded to float32; float16 stays. What cannot be used comes back as a reason, and nothing but a
    MemoryError is raised. Takes memory and time in proportion to the content, whatever it says.
    """
    if len(content) > MAX_BYTES:
        return Decoded(None, None, TOO_LARGE)
    try:
        array = _read_npy(content) if path.endswith(".npy") else read_pickle(content)
    except RejectedError as rejected:
        return Decoded(None, None, str(rejected))
    return pack_vector(array)


def pack_vector(array: NDArray[Any]) -> Decoded:
    """One array checked and packed as little-endian float16 or float32; never raises."""
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        return Decoded(None, None, WRONG_DTYPE)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or array.size == 0:
        return Decoded(None, None, WRONG_DIMENSION)
    if array.size > MAX_DIM:
        return Decoded(None, None, TOO_LARGE)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes inf, and is rejected as that
        vector = array.astype("<f2" if array.dtype.itemsize == 2 else "<f4")
    if not np.isfinite(vector).all():
        return Decoded(None, None, NOT_FINITE)
    if not vector.any():
        return Decoded(None, None, ZERO_NORM)
    return Decoded(vector.tobytes(), len(vector), None)


def _read_npy(content: bytes) -> NDArray[Any]:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream)
    except Exception:  # the header is parsed as a Python literal, and hostile ones make that raise anything
        raise RejectedError(UNREADABLE) from None
    return build_array(shape, dtype, content[stream.tell() :], fortran_order)
