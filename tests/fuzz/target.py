"""What must hold for any bytes in a clip file: an answer, no code run, and memory in proportion to the file."""

import base64
import io
import pickle
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np

from udfs import reasons
from udfs.decode import Decoded, decode_clip

_CORPUS = Path(__file__).with_name("corpus.txt")
REASONS = {value for name, value in vars(reasons).items() if name.isupper()}

_seen: list[str] = []  # audit events while `_listening`
_listening = False


def _hook(event: str, args: tuple[object, ...]) -> None:
    if _listening:
        _seen.append(f"import {args[0]}" if event == "import" else event)


sys.addaudithook(_hook)


def check(name: str, content: bytes) -> Decoded:
    """Decode a clip file; raises AssertionError when it does more than look at its bytes."""
    global _listening  # an audit hook can never be taken away
    tracemalloc.start()
    _seen.clear()
    _listening = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoded = decode_clip(name, content)
    finally:
        _listening = False
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # NumPy parses the header of an .npy file with ast.literal_eval, which compiles it to a tree, no further; Python's
    # parser asks unicodedata about names that are not ASCII.
    allowed = {"compile", "import unicodedata"} if name.endswith(".npy") else set()
    assert set(_seen) <= allowed, f"{set(_seen)} while decoding"
    assert peak <= (8 << 20) + 16 * len(content), f"{peak} bytes for a file of {len(content)}"
    if decoded.reason is None:
        assert decoded.embedding is not None
        assert decoded.dim is not None
        width = len(decoded.embedding) // decoded.dim
        vector = np.frombuffer(decoded.embedding, f"<f{width}")
        assert width in (2, 4)
        assert len(vector) == decoded.dim
        assert np.isfinite(vector).all()
        assert vector.any()
    else:
        assert decoded.reason in REASONS
        assert decoded.embedding is None
    return decoded


def seeds() -> list[tuple[str, bytes]]:
    """Clip files, good and nearly so, to start from."""
    arrays = [np.linspace(-1, 1, n, dtype=kind) for n, kind in ((3, "<f2"), (5, "<f4"), (4, "<f8"), (2, ">f4"))]
    arrays += [np.ones((1, 3), np.float32), np.arange(3), np.asfortranarray(np.ones((2, 2)))]
    found = []
    for array in arrays:
        found += [("a.pkl", pickle.dumps(array, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
        buffer = io.BytesIO()
        np.save(buffer, array)
        found.append(("a.npy", buffer.getvalue()))
    others: list[object] = [[1.0, 2.0], {"embedding": 1}, np.array([None, 1], object), np.float32(1), "text"]
    return found + [("a.pkl", pickle.dumps(value)) for value in others]


def corpus() -> list[tuple[str, bytes]]:
    """What fuzzing has found to reach new code."""
    lines = [line.split(" ", 1) for line in _CORPUS.read_text().splitlines()] if _CORPUS.exists() else []
    return [(name, base64.b64decode(content)) for name, content in lines]


def keep(files: list[tuple[str, bytes]]) -> None:
    """Replace the corpus."""
    lines = sorted({f"{name} {base64.b64encode(content).decode()}" for name, content in files})
    _CORPUS.write_text("\n".join([*lines, ""]))


with warnings.catch_warnings():  # what NumPy imports at the first use
    warnings.simplefilter("ignore")
    for _seed in [*seeds(), ("a.npy", seeds()[6][1].replace(b"(3,)", b"(3L)"))]:
        decode_clip(*_seed)
