"""The kernels, compiled by NVIDIA's compiler library, which needs no GPU."""

import ctypes
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from udfs.device import source
from udfs.tensor_screen import shared_bytes


@cache
def nvrtc() -> Any:
    """The library from the package nvidia-cuda-nvrtc, or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    found = sorted(library for folder in folders for library in folder.glob("*/lib/libnvrtc.so.*"))
    return ctypes.CDLL(str(found[0])) if found else None


def compiled(width: int, architecture: str) -> str:
    """The assembler's report; fails with the compiler's log."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    options = (
        "--std=c++17",
        f"-DWIDTH={width}",
        "-ftz=true",
        f"--gpu-architecture={architecture}",
        "--ptxas-options=-v",
    )
    arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    library.nvrtcCreateProgram(ctypes.byref(program), source().encode(), b"kernels.cu", 0, None, None)
    failed = library.nvrtcCompileProgram(program, len(options), arguments)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed, log.value.decode()
    return log.value.decode()


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_90"])
@pytest.mark.parametrize("width", [16, 48, 64, 128])
def test_the_kernels_compile_without_spilling_registers(width: int, architecture: str) -> None:
    if nvrtc() is None:
        pytest.skip("no nvidia-cuda-nvrtc here to compile the kernels with")
    report = compiled(width, architecture)
    kernels = re.findall(r"Compiling entry function '(\w+)'", report)
    assert sorted(kernels) == ["first_of_best", "list_pairs", "mark", "pair_dots", "raise_best", "widen"]
    assert set(re.findall(r"(\d+) bytes spill", report)) == {"0"}


def test_the_widest_screen_that_small_cards_hold() -> None:
    """A block may have 64 KiB of it on compute capability 7.5, 99 on 8.6 and 8.9, 163 on 8.0, 227 on 9.0."""
    widest = {kib: max(w for w in range(16, 129, 16) if shared_bytes(w) <= kib << 10) for kib in (64, 99, 163, 227)}
    assert widest == {64: 64, 99: 112, 163: 128, 227: 128}
