"""Stands in for CuPy where there is no GPU: its arrays lie on the host, and its kernels run by ../block.cpp.

As strict as CuPy where our code could trip: arrays do not mix with NumPy's, a reduction gives an array, functions and
options that CuPy lacks are refused, memory has a limit.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
import types
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__version__ = "emulation"

_FUNCTIONS = {
    "all", "any", "arange", "argmax", "argsort", "bincount", "clip", "concatenate", "copyto",
    "count_nonzero", "divmod", "einsum", "empty", "empty_like", "fill_diagonal", "flatnonzero", "full_like", "isin",
    "max", "median", "nan_to_num", "nonzero", "triu", "unique", "where", "zeros", "zeros_like",
}  # fmt: skip
_LEFT_OUT = {"initial", "where"}  # options of reductions that CuPy has not


class ndarray(np.ndarray):  # noqa: N801
    def get(self) -> np.ndarray:
        return _plain(self).copy()

    def set(self, host: np.ndarray) -> None:
        if host.dtype != self.dtype or host.shape != self.shape or not self.flags.c_contiguous:
            raise ValueError("set() takes an array of the same dtype and shape")
        _plain(self)[...] = host

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"{ufunc.__name__}.{method}: CuPy lacks most of these, and its maximum.at rounds float64")
        if "where" in options or (isinstance(options.get("out"), tuple) and len(options["out"]) > 1):
            raise TypeError("Wrong arguments")
        arrays = [_own(value) for value in inputs]
        options = {name: _own(value) for name, value in options.items()}
        result = ufunc(*arrays, **options)
        return self if options.get("out") and inputs and inputs[0] is self else _wrapped(result)

    def __array_function__(self, function: Any, _types: Any, args: Any, options: Any) -> Any:
        name = function.__name__
        if name not in _FUNCTIONS:
            raise TypeError(f"cupy has no {name} that this stand-in knows")
        options = dict(options)
        options.pop("like", None)
        if (name == "max" and _LEFT_OUT & set(options)) or (name == "unique" and "axis" in options):
            raise TypeError(f"{name}: {options}")
        return _wrapped(function(*(_own(value) for value in args), **{n: _own(v) for n, v in options.items()}))

    def __getitem__(self, key: Any) -> Any:
        return _wrapped(_plain(self)[_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(value) is np.ndarray and value.ndim:
            raise ValueError("a NumPy array is not assigned to an array on the GPU")
        _plain(self)[_index(key)] = _own(value)

    def __index__(self) -> int:
        raise TypeError("arrays on the GPU are no index: use int()")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def max(self, axis: Any = None) -> Any:  # type: ignore[override]
        return _wrapped(_plain(self).max(axis=axis))

    def argmax(self, axis: Any = None) -> Any:  # type: ignore[override]
        return _wrapped(_plain(self).argmax(axis=axis))

    def sum(self, axis: Any = None) -> Any:  # type: ignore[override]
        return _wrapped(_plain(self).sum(axis=axis))

    def any(self, axis: Any = None) -> Any:  # type: ignore[override]
        return _wrapped(_plain(self).any(axis=axis))

    def astype(self, dtype: Any, copy: bool = True) -> Any:  # type: ignore[override]
        return _wrapped(_plain(self).astype(dtype, copy=copy))

    def copy(self) -> Any:  # type: ignore[override]
        return _wrapped(_plain(self).copy())


def _plain(array: np.ndarray) -> np.ndarray:
    return array.view(np.ndarray)


def _own(value: Any) -> Any:
    """An argument as NumPy takes it; a NumPy array with dimensions may not mix with CuPy's."""
    if isinstance(value, ndarray):
        return _plain(value)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (list, tuple)):
        return type(value)(_own(part) for part in value)
    return value


def _index(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_index(part) for part in key)
    if isinstance(key, slice):
        for part in (key.start, key.stop, key.step):
            if isinstance(part, ndarray):
                raise TypeError("arrays on the GPU are no index: use int()")
    return _plain(key) if isinstance(key, ndarray) else key


def _wrapped(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_wrapped(part) for part in result)
    if isinstance(result, (np.ndarray, np.generic)):
        plain = np.asarray(result)
        if plain.flags.owndata:
            _POOL.take(plain)
        return plain.view(ndarray)
    return result


def ascontiguousarray(array: Any) -> Any:
    return array if array.flags.c_contiguous else _wrapped(np.ascontiguousarray(_plain(array)))


class OutOfMemoryError(MemoryError):
    pass


class _Pool:
    def __init__(self) -> None:
        self.limit, self.used = 0, 0

    def take(self, array: np.ndarray) -> None:
        if self.limit and self.used + array.nbytes > self.limit:
            raise OutOfMemoryError(f"out of memory: {array.nbytes} bytes")
        self.used += array.nbytes
        weakref.finalize(array, self.give_back, array.nbytes)

    def give_back(self, size: int) -> None:
        self.used -= size

    def used_bytes(self) -> int:
        return self.used

    def set_limit(self, size: int) -> None:
        self.limit = size

    def get_limit(self) -> int:
        return self.limit

    def free_all_blocks(self) -> None:
        pass


_POOL = _Pool()


def get_default_memory_pool() -> _Pool:
    return _POOL


def empty(shape: Any, dtype: Any = float) -> Any:
    return _wrapped(np.empty(shape, dtype))


class RawModule:
    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        kernels = code[code.index("// The screen on tensor cores") :]  # without cuda/tensor_core.cu
        emulator = Path(__file__).parents[1] / "block.cpp"
        content = (kernels + emulator.read_text() + str(options)).encode()
        library = Path(tempfile.gettempdir()) / f"kernels-{hashlib.sha256(content).hexdigest()[:20]}.so"
        if not library.exists():
            with tempfile.TemporaryDirectory() as folder:
                source, built = Path(folder) / "kernels.cu", Path(folder) / "kernels.so"
                source.write_text(kernels)
                command = ["g++", "-O2", "-shared", "-fPIC", *options, f'-DKERNELS="{source}"', str(emulator)]
                subprocess.run([*command, "-o", str(built)], check=True)  # noqa: S603
                moved = library.with_suffix(f".{os.getpid()}")
                moved.write_bytes(built.read_bytes())
                moved.replace(library)
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Any:
        return _Function(getattr(self._library, f"run_{name}"))


class _WholeModule:
    """Kernels of whole_kernels.py in the place of those compiled."""

    def __init__(self, **_: Any) -> None:
        from cupy import whole_kernels

        self._kernels = whole_kernels

    def get_function(self, name: str) -> Any:
        return _WholeFunction(getattr(self._kernels, name))


class _WholeFunction:
    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, _grid: Any, _block: Any, args: tuple[Any, ...], **_: Any) -> None:
        self._function(*(_own(value) for value in args))


class _Function:
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0
    ) -> None:
        if shared_mem > min(self.max_dynamic_shared_size_bytes, 1 << 18):
            raise RuntimeError("more shared memory than was asked for")
        held: list[Any] = []
        for value in args:
            if isinstance(value, ndarray):
                held.append(ctypes.c_void_p(value.ctypes.data))
            elif isinstance(value, np.generic):
                kind: Any = value.dtype
                held.append(np.ctypeslib.as_ctypes_type(kind)(value.item()))
            else:
                raise TypeError(f"{type(value)} is no argument of a kernel")
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        self._function(*grid, *block, pointers)


class _Device:
    compute_capability = "80"
    attributes: ClassVar = {"MaxSharedMemoryPerBlockOptin": 163 << 10}

    def __init__(self, number: int = 0) -> None:
        self.id = number

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


cuda = types.SimpleNamespace(
    Device=_Device,
    is_available=lambda: True,
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        runtimeGetVersion=lambda: 0,
        memGetInfo=lambda: (1 << 30, 1 << 30),
        getDeviceProperties=lambda _number: {"name": b"Emulation"},
    ),
)

if os.environ.get("KERNELS") == "numpy":
    RawModule = _WholeModule  # type: ignore[assignment,misc]
