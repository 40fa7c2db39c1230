"""Where arrays lie, on the host or on a GPU: the only module that knows CuPy.

The array functions of this package are NumPy code. NumPy hands an operation on CuPy arrays to CuPy (NEP 13 and 18), and
arrays made from nothing are made beside others by `like=`. So one code runs on both, but for the few places that ask
`on_host`. What differs on a GPU, and has to be minded there: `maximum.at` of float64 rounds to float32, kernels take
subnormal float32 for zero, `max` knows no `initial`, `full` no `like`.
"""

import functools
import importlib.resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

THREADS = 256  # of a block, unless a kernel wants another number

_GPU_CHUNK = 1 << 25  # elements to work on at once: 256 MiB of float64
_OLDEST = 75  # compute capability times ten with the instructions of cuda/tensor_core.cu
_SHARE = 0.9  # of the GPU's free memory for arrays; the rest is for the libraries' own needs


def on_host(array: NDArray[Any]) -> bool:
    """Whether it is a NumPy array."""
    return type(array) is np.ndarray


def to_host(array: NDArray[Any]) -> NDArray[Any]:
    """The array in NumPy."""
    return array if on_host(array) else array.get()  # type: ignore[attr-defined]


def beside(array: NDArray[Any], host: NDArray[Any]) -> NDArray[Any]:
    """The NumPy array `host` where `array` lies."""
    return host if on_host(array) else to_gpu(host)


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its rows one after the other in memory, as kernels take it."""
    return np.ascontiguousarray(array) if on_host(array) else _cupy().ascontiguousarray(array)


def chunk_elements(array: NDArray[Any], host: int) -> int:
    """How many elements to work on at once: `host` on the host, as suits its caches, and more on a GPU."""
    return host if on_host(array) else _GPU_CHUNK


def to_gpu(host: NDArray[Any]) -> NDArray[Any]:
    """A copy of a NumPy array on the current GPU, made without a copy on the host."""
    there = _cupy().empty(host.shape, host.dtype)
    there.set(np.ascontiguousarray(host))
    return there  # type: ignore[no-any-return]


def widened(array: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same numbers in float64, the subnormal ones too."""
    if on_host(array):
        return array.astype(np.float64)
    wide = np.empty(array.shape, np.float64, like=array)
    launch("widen", (contiguous(array), np.int64(array.size), wide), blocks=-(-array.size // THREADS))
    return wide


def use_gpu(number: int, share: float) -> None:
    """Compute on this GPU from now on, in this thread, with at most this share of its memory.

    The limit is set when a process first uses the GPU, from what is free then.
    """
    cupy = _cupy()
    cupy.cuda.Device(number).use()
    _limit_memory(number, share)


def gpu_count() -> int:
    """How many GPUs this process can use; 0 where there is no CuPy or no driver."""
    try:
        cupy = _cupy()
        return int(cupy.cuda.runtime.getDeviceCount())
    except (ImportError, RuntimeError):
        return 0


def gpu_name() -> str:
    """What the current GPU is called, and its free memory."""
    cupy = _cupy()
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return f"{name}, {cupy.cuda.runtime.memGetInfo()[0] / 2**30:.0f} GiB free"


def synchronize() -> None:
    """Wait until the current GPU has done what it was given."""
    _cupy().cuda.Device().synchronize()


def memory_limit() -> int:
    """Bytes that this process may hold in arrays on the current GPU."""
    return int(_cupy().get_default_memory_pool().get_limit())


def out_of_memory() -> type[Exception]:
    """What is raised when they are not enough."""
    error: type[Exception] = _cupy().cuda.memory.OutOfMemoryError
    return error


def release_memory() -> None:
    """Give back what no array holds any more."""
    _cupy().get_default_memory_pool().free_all_blocks()


def tensor_cores() -> bool:
    """Whether the current GPU has what the screen's kernels need."""
    return int(_cupy().cuda.Device().compute_capability) >= _OLDEST


def shared_memory() -> int:
    """Bytes of shared memory that a block may have on the current GPU."""
    return int(_cupy().cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])


def launch(
    kernel: str, args: tuple[Any, ...], blocks: int, threads: int = THREADS, width: int = 16, shared_bytes: int = 0
) -> None:
    """Run a kernel of cuda/kernels.cu on C-contiguous arrays; for the screen, compiled for rows of this width."""
    if not all(a.flags.c_contiguous for a in args if hasattr(a, "flags")):
        raise ValueError(f"{kernel} takes contiguous arrays only")
    if blocks:
        function = _module(width).get_function(kernel)
        if shared_bytes:
            function.max_dynamic_shared_size_bytes = shared_bytes
        function((blocks,), (threads,), args, shared_mem=shared_bytes)


def source() -> str:
    """The CUDA source of the kernels."""
    folder = importlib.resources.files("udfs") / "cuda"
    return "".join((folder / name).read_text(encoding="utf-8") for name in ("tensor_core.cu", "kernels.cu"))


@functools.cache
def _module(width: int) -> Any:
    return _cupy().RawModule(code=source(), options=("--std=c++17", f"-DWIDTH={width}"))


@functools.cache
def _limit_memory(_number: int, share: float) -> None:
    """Once for each GPU: a later task of the process finds its arrays' memory taken."""
    cupy = _cupy()
    free, _ = cupy.cuda.runtime.memGetInfo()
    cupy.get_default_memory_pool().set_limit(size=int(free * share * _SHARE))


def _cupy() -> Any:
    import cupy

    return cupy
