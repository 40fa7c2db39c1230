"""The `gpu` fixture: each test that uses it runs on the emulation, and on a real GPU where there is one."""

import functools
import shutil
import subprocess

import pytest

from tests.gpu.emulated import emulation
from udfs import device


@pytest.fixture(params=["emulated", pytest.param("card", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The first GPU in use, of CuPy as tests/emulation has it or of the real one."""
    if request.param == "emulated":
        if shutil.which("g++") is None:
            pytest.skip("no g++ to run the kernels on the CPU with")
        monkeypatch.setattr("udfs.device._cupy", emulation)
    elif why := without_gpu():
        pytest.skip(why)
    device._module.cache_clear()
    device._limit_memory.cache_clear()
    device.use_gpu(0, 1.0)
    return str(request.param)


@functools.cache
def without_gpu() -> str | None:
    """Why nothing can run on a GPU here."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return "no NVIDIA GPU: nvidia-smi -L finds none"
    try:
        import cupy
    except ImportError:
        return f"no CuPy, though there is {done.stdout.strip()}"
    return None if cupy.cuda.is_available() else "CuPy finds no GPU"
