import io
import pickle
from typing import Any

import numpy as np
import pytest

from tests.reference import f32, f64
from udfs import reasons
from udfs.decode import Decoded, clip_id, decode_clip

VECTOR = f32([0.5, -1, 2])


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("shape", [(3,), (1, 3)])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_pickled_arrays_are_read(protocol: int, shape: tuple[int, ...], dtype: str) -> None:
    content = pickle.dumps(VECTOR.astype(dtype).reshape(shape), protocol=protocol)
    expected = VECTOR.astype("<f2" if dtype == "<f2" else "<f4").tobytes()
    assert decode_clip("clip.pickle", content) == Decoded(expected, 3, None)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_names_of_numpy_1_and_2_are_both_read(protocol: int) -> None:
    content = pickle.dumps(VECTOR, protocol=protocol)
    other = content.replace(b"numpy._core", b"numpy.core") if b"_core" in content else content
    if protocol >= 4:  # names carry their length there
        other = other.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core").replace(
            b"\x8c\x13numpy.core", b"\x8c\x12numpy.core"
        )
        length = int.from_bytes(content[3:11], "little") - (len(content) - len(other))
        other = other[:3] + length.to_bytes(8, "little") + other[11:]
    assert other != content
    assert decode_clip("clip.pkl", other) == Decoded(VECTOR.tobytes(), 3, None)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f8"])
def test_npy_files_are_read(dtype: str) -> None:
    expected = VECTOR.astype("<f2" if dtype == "<f2" else "<f4").tobytes()
    assert decode_clip("a/clip.npy", npy(VECTOR.astype(dtype))) == Decoded(expected, 3, None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([0.5, 1.0], reasons.NOT_AN_ARRAY),
        ("text", reasons.NOT_AN_ARRAY),
        (None, reasons.NOT_AN_ARRAY),
        (np.array([1, 2]), reasons.WRONG_DTYPE),
        (np.array([1j]), reasons.WRONG_DTYPE),
        (np.array(["a"]), reasons.WRONG_DTYPE),
        (np.array([None, 1.0], object), reasons.WRONG_DTYPE),
        (np.zeros((2, 3), np.float32) + 1, reasons.WRONG_DIMENSION),
        (f32([]), reasons.WRONG_DIMENSION),
        (np.ones((), np.float32), reasons.WRONG_DIMENSION),
        (f32([1, np.nan]), reasons.NOT_FINITE),
        (f32([1, -np.inf]), reasons.NOT_FINITE),
        (f64([1, 1e300]), reasons.NOT_FINITE),
        (f32([0, 0]), reasons.ZERO_NORM),
        (f64([0, 1e-300]), reasons.ZERO_NORM),
    ],
    ids=repr,
)
def test_what_is_no_vector_gets_its_reason(value: Any, reason: str) -> None:
    assert decode_clip("clip.pickle", pickle.dumps(value)).reason == reason
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        assert decode_clip("clip.npy", npy(value)).reason == reason


@pytest.mark.parametrize("name", ["clip.pickle", "clip.npy"])
@pytest.mark.parametrize("content", [b"", b"\x80", b"not an array", pickle.dumps(VECTOR)[:-5], npy(VECTOR)[:-1]])
def test_broken_files_are_unreadable(name: str, content: bytes) -> None:
    assert decode_clip(name, content).reason == reasons.UNREADABLE


def test_the_id_is_the_stem() -> None:
    assert clip_id("s3a://bucket/a b/clip.v1.pickle") == "clip.v1"
    assert clip_id("plain.npy") == "plain"
