import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import f32
from udfs.vectors import (
    cosines,
    first_of_best,
    first_of_equal_rows,
    pack,
    pair_dots,
    raise_best,
    screen_margin,
    squared_norms,
    unit_rows,
    unpack,
)


def normal(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_packed_rows_come_back(dtype: type) -> None:
    rows: np.ndarray = normal(5, 7).astype(dtype)
    packed = pack(rows)
    assert packed[2].as_py() == rows[2].tobytes()
    np.testing.assert_array_equal(unpack(packed, 7), rows.astype(np.float32))


def test_big_endian_rows_are_packed_little_endian() -> None:
    rows = normal(3, 4)
    assert pack(rows.astype(">f4")).equals(pack(rows))


def test_unpack_takes_slices_plain_binary_and_no_rows() -> None:
    rows = normal(6, 3)
    packed = pack(rows).cast(pa.binary())
    np.testing.assert_array_equal(unpack(packed.slice(2, 3), 3), rows[2:5])
    assert unpack(packed.slice(0, 0), 3).shape == (0, 3)


def test_unpack_takes_float16_and_float32_rows_in_one_column() -> None:
    half, single = f32([1, 2]).astype(np.float16), f32([0.1, 0.2])
    column = pa.array([half.tobytes(), single.tobytes()], pa.binary())
    np.testing.assert_array_equal(unpack(column, 2), f32([[1, 2], single]))


def test_unpack_refuses_another_dimension() -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        unpack(pa.array([b"123456"], pa.binary()), 2)


@given(st.integers(1, 2048) | st.integers(8000, 20_000), st.integers(0, 2**31))
def test_a_pair_scores_the_same_in_any_batch(dim: int, seed: int) -> None:
    x = normal(9, dim, seed)
    whole = pair_dots(x, np.arange(9), x, np.arange(9)[::-1].copy())
    for i in range(9):
        assert pair_dots(x[i : i + 1].copy(), np.array([0]), x, np.array([8 - i]))[0] == whole[i]


@given(st.integers(1, 300), st.integers(0, 2**31), st.floats(1e-18, 1e18))
def test_equal_rows_score_exactly_one(dim: int, seed: int, scale: float) -> None:
    x = normal(1, dim, seed) * np.float32(scale)
    sq = squared_norms(x)
    if sq[0] > 0:
        assert cosines(x, np.array([0]), x.copy(), np.array([0]), sq, sq)[0] == 1.0


@given(st.integers(1, 2048), st.integers(0, 2**31), st.integers(-60, 60))
def test_the_screen_stays_within_its_margin(dim: int, seed: int, exponent: int) -> None:
    x = normal(20, dim, seed) * np.float32(2.0**exponent)
    x[10:] = x[:10] + np.float32(2.0 ** (exponent - 6)) * normal(10, dim, seed + 1)  # near pairs as well
    sq = squared_norms(x)
    unit = unit_rows(x, sq)
    i, j = np.divmod(np.arange(400), 20)
    exact = cosines(x, i, x, j, sq, sq)
    assert np.abs((unit @ unit.T).ravel() - exact).max() <= screen_margin(dim)
    precise = x / np.sqrt(sq)[:, None]
    assert np.abs((precise @ precise.T).ravel() - exact).max() <= 2 * screen_margin(dim, np.float64)  # `exact` errs too


def test_equal_rows_find_their_first() -> None:
    x = f32([[1, 2], [2, 1], [1, 2], [2, 1], [1, 2], [1, 3]])
    assert first_of_equal_rows(x, squared_norms(x)).tolist() == [0, 1, 0, 1, 0, 5]


def test_rows_that_only_look_equal_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udfs.vectors.pair_dots", lambda x, *_: np.zeros(len(x)))
    assert first_of_equal_rows(f32([[1, 2], [2, 1], [1, 2]]), np.ones(3)).tolist() == [0, 1, 0]


def test_the_best_pair_of_a_row_is_the_first_of_its_highest() -> None:
    rows, cols = np.array([5, 0, 0, 3, 0, 5]), np.array([7, 3, 2, 0, 1, 9])
    scores = np.array([0.3, 0.9, 0.9, 0.1, 0.5, 0.4])
    best, first = np.array([0.2] * 6), np.full(6, 99)
    raise_best(best, rows, scores)
    assert best.tolist() == [0.9, 0.2, 0.2, 0.2, 0.2, 0.4]
    first_of_best(first, rows, cols, scores, best)
    assert first.tolist() == [2, 99, 99, 99, 99, 9]
