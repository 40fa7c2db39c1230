"""Brings tests/emulation/cupy, beside a real CuPy if there is one."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EMULATION = Path(__file__).parents[1] / "emulation" / "cupy" / "__init__.py"


@functools.cache
def emulation() -> ModuleType:
    """The module, always the same."""
    spec = importlib.util.spec_from_file_location("emulated_cupy", EMULATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emulated_cupy"] = module
    spec.loader.exec_module(module)
    return module
