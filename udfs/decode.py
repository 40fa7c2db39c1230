"""Clip files (`.pickle`, `.pkl`, `.npy`) to vectors. No code from a file ever runs."""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Reasons a clip is rejected for, as written to rejected/.
UNREADABLE = "unreadable"
NOT_AN_ARRAY = "not_an_array"
WRONG_DTYPE = "wrong_dtype"
WRONG_DIMENSION = "wrong_dimension"
NOT_FINITE = "not_finite"
ZERO_NORM = "zero_norm"
NULL = "null"
HIDDEN_NAME = "hidden_name"
DUPLICATE_ID = "duplicate_id"

SUFFIXES = (".pickle", ".pkl", ".npy")


class Decoded(NamedTuple):
    """One clip: its packed embedding, or the reason there is none."""

    embedding: bytes | None
    dim: int | None
    reason: str | None


class _RejectedError(Exception):
    """Carries a reason out of the readers."""


def clip_id(path: str) -> str:
    """The id of a clip file: its name without the suffix."""
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def decode_clip(path: str, content: bytes) -> Decoded:
    """The embedding in one clip file: an array of shape (d,) or (1, d), float16, float32 or float64.

    float64 is rounded to float32; float16 stays. Never raises: what cannot be used comes back as a reason.
    """
    try:
        array = _read_npy(content) if path.endswith(".npy") else _read_pickle(content)
    except _RejectedError as rejected:
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
        raise _RejectedError(UNREADABLE) from None
    return _build_array(shape, dtype, content[stream.tell() :], fortran_order)


def _build_array(shape: Any, dtype: Any, data: Any, fortran_order: bool) -> NDArray[Any]:
    """An array over `data`, if shape and dtype account for its bytes exactly; nothing is allocated before."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.itemsize == 0:
        raise _RejectedError(WRONG_DTYPE)
    try:
        lengths = [int(length) for length in shape]
        if min(lengths, default=0) < 0 or math.prod(lengths) * dtype.itemsize != len(data):
            raise _RejectedError(UNREADABLE)
        return np.frombuffer(data, dtype).reshape(lengths, order="F" if fortran_order else "C")
    except (TypeError, ValueError):
        raise _RejectedError(UNREADABLE) from None


def _read_pickle(content: bytes) -> NDArray[Any]:
    try:
        value = _ArrayUnpickler(io.BytesIO(content)).load()
    except _RejectedError:
        raise
    except Exception:  # a hostile pickle can make the unpickler raise anything
        raise _RejectedError(UNREADABLE) from None
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    raise _RejectedError(NOT_AN_ARRAY)


class _ArrayUnpickler(pickle._Unpickler):
    """Reads pickled NumPy arrays without NumPy's own unpickling code.

    A pickled array is a call of `_reconstruct` (or, from protocol 5, `_frombuffer`) and the array's state. Here
    those names lead to the stand-ins below, which check the state and build the array themselves; any other
    name is refused. The base is the one in Python: the one in C allocates whatever memo index a file names.
    """

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed numpy.core to numpy._core.
        found = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise _RejectedError(NOT_AN_ARRAY)
        return found


class _StandIn:
    """What a pickle gets for a name: it can be called, and nothing else can be done to it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, _state: Any) -> None:
        raise _RejectedError(NOT_AN_ARRAY)


class _Array:
    """An array in the making: `_reconstruct` makes it empty, its pickled state fills it."""

    def __init__(self, array: NDArray[Any] | None = None) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _RejectedError(WRONG_DTYPE)
        self.array = _build_array(shape, dtype.dtype, data, bool(fortran_order))


class _Dtype:
    """A plain dtype: a type code such as `f4`, then the byte order in the state."""

    def __init__(self, code: Any, *_align_and_copy: Any) -> None:
        if not isinstance(code, str) or code not in ("f2", "f4", "f8"):
            raise _RejectedError(WRONG_DTYPE)
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


def _reconstruct(*_subtype_shape_code: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_axes: Any) -> _Array:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _RejectedError(WRONG_DTYPE)
    if order not in ("C", "F"):
        raise _RejectedError(UNREADABLE)
    return _Array(_build_array(shape, dtype.dtype, data, order == "F"))


def _ndarray(*_args: Any) -> None:
    """Named in a pickled array as the type to make, never called."""
    raise _RejectedError(NOT_AN_ARRAY)


def _encode(text: Any, encoding: Any) -> bytes:
    """Protocols 0 to 2 write bytes as Latin-1 text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RejectedError(NOT_AN_ARRAY)
    return text.encode("latin1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _StandIn(_frombuffer),
    ("numpy", "ndarray"): _StandIn(_ndarray),
    ("numpy", "dtype"): _StandIn(_Dtype),
    ("_codecs", "encode"): _StandIn(_encode),
}
