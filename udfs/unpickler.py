"""Pickled NumPy arrays, and nothing else that a pickle may hold. No code from a file ever runs."""

import io
import math
import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from udfs.reasons import NOT_AN_ARRAY, UNREADABLE, WRONG_DTYPE, RejectedError

_MAX_AXES = 32  # as NumPy had for long


def build_array(shape: Any, dtype: Any, data: Any, fortran_order: bool) -> NDArray[Any]:
    """An array over `data`, if shape and dtype account for its bytes exactly; nothing is allocated before."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.itemsize == 0:
        raise RejectedError(WRONG_DTYPE)
    if not isinstance(shape, tuple) or len(shape) > _MAX_AXES:
        raise RejectedError(UNREADABLE)
    if not all(type(length) is int and 0 <= length <= len(data) for length in shape):
        raise RejectedError(UNREADABLE)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise RejectedError(UNREADABLE)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def read_pickle(content: bytes) -> NDArray[Any]:
    """The array that a pickle holds; raises RejectedError with a reason for anything else."""
    try:
        value = _ArrayUnpickler(content).load()
    except (RejectedError, MemoryError):  # what a file can ask for is bounded: memory is not short for its sake
        raise
    except Exception:  # a hostile pickle can make the unpickler raise anything
        raise RejectedError(UNREADABLE) from None
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    raise RejectedError(NOT_AN_ARRAY)


# What a pickled array consists of, in any protocol: calls of the names below, tuples, text, bytes, whole numbers, and
# references back to them.
_OPCODES = (
    "PROTO FRAME STOP GLOBAL STACK_GLOBAL REDUCE BUILD "
    "MARK TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
)
# Of those an array takes some fifty, and four calls. Each may copy as much as the file holds, so they are counted.
_MOST_OPCODES, _MOST_CALLS = 500, 10

_Loader = Callable[[Any], None]


def _loaders() -> dict[int, _Loader]:
    """What the unpickler does for each opcode: as its base, but counted, or refuse."""
    loaders: dict[int, _Loader] = pickle._Unpickler.dispatch
    allowed = {ord(getattr(pickle, name)) for name in _OPCODES.split()}
    return {
        op: _counted(_bytearray8 if op == ord(pickle.BYTEARRAY8) else load, is_call=op == ord(pickle.REDUCE))
        if op in allowed
        else _refuse
        for op, load in loaders.items()
    }


def _counted(load: _Loader, is_call: bool) -> _Loader:
    def go(unpickler: Any) -> None:
        unpickler.opcodes += 1
        unpickler.calls += is_call
        if unpickler.opcodes > _MOST_OPCODES or unpickler.calls > _MOST_CALLS:
            _refuse(unpickler)
        load(unpickler)

    return go


def _refuse(_unpickler: Any) -> None:
    raise RejectedError(NOT_AN_ARRAY)


def _bytearray8(unpickler: Any) -> None:
    """The base allocates the length that the file names; this reads it, and gets what there is."""
    (length,) = struct.unpack("<Q", unpickler.read(8))
    data = unpickler.read(length)
    if len(data) != length:
        raise RejectedError(UNREADABLE)
    unpickler.append(data)


class _ArrayUnpickler(pickle._Unpickler):
    """Reads pickled NumPy arrays without NumPy's own unpickling code.

    A pickled array is a call of `_reconstruct` (or, from protocol 5, `_frombuffer`) and the array's state. Here
    those names lead to the stand-ins below, which check the state and build the array themselves; any other
    name is refused, and any opcode that an array does without. The base is the one in Python: the one in C
    allocates whatever memo index a file names, and its opcodes are fixed.
    """

    dispatch: ClassVar[dict[int, _Loader]] = _loaders()

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.opcodes = self.calls = 0

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed numpy.core to numpy._core.
        found = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise RejectedError(NOT_AN_ARRAY)
        return found


class _StandIn:
    """What a pickle gets for a name: it can be called, and nothing else can be done to it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, _state: Any) -> None:
        raise RejectedError(NOT_AN_ARRAY)


class _Array:
    """An array in the making: `_reconstruct` makes it empty, its pickled state fills it."""

    def __init__(self, array: NDArray[Any] | None = None) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise RejectedError(WRONG_DTYPE)
        self.array = build_array(shape, dtype.dtype, data, bool(fortran_order))


class _Dtype:
    """A plain dtype: a type code such as `f4`, then the byte order in the state."""

    def __init__(self, code: Any, *_align_and_copy: Any) -> None:
        if not isinstance(code, str) or code not in ("f2", "f4", "f8"):
            raise RejectedError(WRONG_DTYPE)
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


def _reconstruct(*_subtype_shape_code: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_axes: Any) -> _Array:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise RejectedError(WRONG_DTYPE)
    if order not in ("C", "F"):
        raise RejectedError(UNREADABLE)
    return _Array(build_array(shape, dtype.dtype, data, order == "F"))


def _ndarray(*_args: Any) -> None:
    """Named in a pickled array as the type to make, never called."""
    raise RejectedError(NOT_AN_ARRAY)


def _encode(text: Any, encoding: Any) -> bytes:
    """Protocols 0 to 2 write bytes as Latin-1 text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RejectedError(NOT_AN_ARRAY)
    return text.encode("latin1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _StandIn(_frombuffer),
    ("numpy", "ndarray"): _StandIn(_ndarray),
    ("numpy", "dtype"): _StandIn(_Dtype),
    ("_codecs", "encode"): _StandIn(_encode),
}
