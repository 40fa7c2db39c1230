import io
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import f32, f64
from udfs import decode
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


class Hostile:
    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps(Hostile(os.system, f"touch {trace}"))
    assert decode_clip("clip.pickle", content).reason == decode.NOT_AN_ARRAY
    assert not trace.exists()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([0.5, 1.0], decode.NOT_AN_ARRAY),
        ("text", decode.NOT_AN_ARRAY),
        (None, decode.NOT_AN_ARRAY),
        (np.array([1, 2]), decode.WRONG_DTYPE),
        (np.array([1j]), decode.WRONG_DTYPE),
        (np.array(["a"]), decode.WRONG_DTYPE),
        (np.array([None, 1.0], object), decode.WRONG_DTYPE),
        (np.zeros((2, 3), np.float32) + 1, decode.WRONG_DIMENSION),
        (f32([]), decode.WRONG_DIMENSION),
        (np.ones((), np.float32), decode.WRONG_DIMENSION),
        (f32([1, np.nan]), decode.NOT_FINITE),
        (f32([1, -np.inf]), decode.NOT_FINITE),
        (f64([1, 1e300]), decode.NOT_FINITE),
        (f32([0, 0]), decode.ZERO_NORM),
        (f64([0, 1e-300]), decode.ZERO_NORM),
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
    assert decode_clip(name, content).reason == decode.UNREADABLE


def test_a_header_that_promises_more_than_the_file_holds_allocates_nothing() -> None:
    content = npy(VECTOR).replace(b"(3,)", b"(10000000000000,)", 1)
    assert decode_clip("clip.npy", content).reason == decode.UNREADABLE
    assert decode_clip("clip.npy", npy(np.array([None]), allow_pickle=True)).reason == decode.WRONG_DTYPE


def test_a_pickle_that_names_a_far_memo_index_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        for index in (2**20, 2**28, 2**32 - 1):
            content = b"\x80\x02N" + b"r" + index.to_bytes(4, "little") + b"."
            assert decode_clip("clip.pickle", content).reason == decode.NOT_AN_ARRAY
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.sampled_from(["a.npy", "a.pkl"]), st.booleans())
def test_random_bytes_never_raise(noise: bytes, name: str, splice: bool) -> None:
    good = npy(VECTOR) if name.endswith("npy") else pickle.dumps(VECTOR)
    middle = len(good) // 2
    content = good[:middle] + noise + good[middle:] if splice else noise
    assert isinstance(decode_clip(name, content), Decoded)


def test_the_id_is_the_stem() -> None:
    assert clip_id("s3a://bucket/a b/clip.v1.pickle") == "clip.v1"
    assert clip_id("plain.npy") == "plain"
