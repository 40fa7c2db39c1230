from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import brute_force, f32, real_embeddings
from udfs.similarity import _Matcher, match_earlier
from udfs.sketches import principal_basis
from udfs.units import Unit
from udfs.vectors import squared_norms, unit_rows


def some_basis(vectors: np.ndarray, m: int) -> np.ndarray:
    x = vectors.astype(np.float32)
    return np.ascontiguousarray(principal_basis(unit_rows(x, squared_norms(x)))[:, :m])


def check(vectors: np.ndarray, min_score: float, m: int, tile_rows: int = 512) -> None:
    match, score, _ = match_earlier(vectors.astype(np.float32), min_score, some_basis(vectors, m), tile_rows=tile_rows)
    expected_match, expected_score = brute_force(vectors, min_score)
    assert match.tolist() == expected_match
    np.testing.assert_allclose(score, [np.nan if s is None else s for s in expected_score], rtol=0, atol=1e-14)


@pytest.mark.parametrize("m", [0, 1, 15, 47, 384])
@pytest.mark.parametrize("tile_rows", [1, 7, 100, 512])
@pytest.mark.parametrize("min_score", [0.999, 0.9, 0.5])
def test_real_embeddings_match_as_brute_force_says(tile_rows: int, min_score: float, m: int) -> None:
    _, embeddings = real_embeddings()
    check(embeddings[:200], min_score, m, tile_rows)


def cosines_of(rows: np.ndarray) -> np.ndarray:
    x = rows.astype(np.float64)
    sq = (x * x).sum(axis=1)
    cosine: np.ndarray = np.clip(x @ x.T / np.sqrt(sq[:, None] * sq), -1, 1)
    return cosine


def check_best(match: np.ndarray, score: np.ndarray, cosine: np.ndarray, allowed: np.ndarray, min_score: float) -> None:
    """Where two candidates differ by rounding alone, either is right."""
    for i in range(len(match)):
        best = np.max(cosine[i], initial=-2, where=allowed[i] & (np.arange(len(match)) < i))
        if abs(best - min_score) > 1e-12:
            assert (match[i] >= 0) == (best > min_score)
        if match[i] >= 0:
            assert allowed[i, match[i]]
            assert match[i] < i
            assert score[i] == pytest.approx(best, abs=1e-12)
            assert cosine[i, match[i]] == pytest.approx(best, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(2, 2048),
    st.sampled_from([1.0, 1e-1, 1e-3, 1e-5, 1e-7]),
    st.sampled_from([0.0, 0.9, 0.99, 0.999, 1.0]),
    st.sampled_from([3, 16, 512]),
    st.sampled_from([np.float16, np.float32]),
    st.sampled_from([0, 1, 15, 31]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_clustered_rows_of_a_unit_match_as_brute_force_says(
    n: int, dim: int, spread: float, min_score: float, tile_rows: int, dtype: type, m: int, cut: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((3, dim))
    rows: np.ndarray = (centers[rng.integers(3, size=n)] + spread * rng.standard_normal((n, dim))).astype(dtype)
    rows[rng.integers(n)] = rows[rng.integers(n)]
    rows[rng.integers(n)] = -rows[rng.integers(n)]
    home = rng.random(n) < 0.7
    second = rng.random(n) < 0.5 if cut else None
    match, score, _ = match_earlier(
        rows.astype(np.float32), min_score, some_basis(rows, m), [Unit(home, second)], tile_rows
    )
    allowed = home[:, None] | home
    if second is not None:
        allowed &= second[:, None] != second
    equal = (rows[:, None] == rows).all(axis=2) & (home[:, None] == home)
    if second is not None:
        equal &= second[:, None] == second
    allowed |= equal  # copies match wherever they are
    check_best(match, score, cosines_of(rows), allowed, min_score)


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_a_dense_group_is_told_apart_without_scoring_all_its_pairs(noise: float) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((1, 128)) + noise * rng.standard_normal((600, 128))).astype(np.float32)
    match, score, work = match_earlier(rows, 0.9, some_basis(rows, 15), tile_rows=128)
    check_best(match, score, cosines_of(rows), np.ones((600, 600), bool), 0.9)
    assert work["pairs"] > 150_000
    assert work["scored"] < 20_000


@pytest.mark.parametrize("cut", [False, True])
def test_dense_groups_among_others_are_told_apart_from_their_centres(
    cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 0], [320, 160, 160])  # one, another, and the first again
    rows = rng.standard_normal((2, 256))[group] + 1e-3 * rng.standard_normal((640, 256))
    others = rng.random(640) < 0.05
    rows[others] = rng.standard_normal((int(others.sum()), 256))
    vectors = rows.astype(np.float32)
    second = np.arange(640) % 2 == 0 if cut else None
    tried = {"float32": 0, "centred": 0, "float64": 0}

    def products(self: _Matcher, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        for product, margin in plainly(self, i, j):
            tried["float32" if margin > 1e-6 else "centred" if margin > 1e-12 else "float64"] += 1
            yield product, margin

    plainly = _Matcher._products
    monkeypatch.setattr(_Matcher, "_products", products)
    match, score, work = match_earlier(vectors, 0.9, some_basis(rows, 15), [Unit(np.ones(640, bool), second)], 32)
    allowed = np.ones((640, 640), bool) if second is None else second[:, None] != second
    check_best(match, score, cosines_of(vectors), allowed, 0.9)
    assert tried["centred"] > 40
    assert tried["float32"] < 1.2 * tried["centred"]
    assert tried["float64"] < 0.5 * tried["centred"]  # tiles of both groups
    assert work["scored"] < 30_000


def test_ties_go_to_the_earliest_row() -> None:
    x = f32([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    match, score, _ = match_earlier(x, 0.0)
    assert match.tolist() == [-1, 0, 0, 1, 0]
    assert score[1:].tolist() == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("m", [0, 1, 2])
@pytest.mark.parametrize("tile_rows", [1, 2, 512])
def test_copies_of_a_scaled_row_match_the_row_that_came_first(tile_rows: int, m: int) -> None:
    x = f32([[1, 1], [2, 2], [2, 2], [4, 4], [2, 2]])
    match, score, _ = match_earlier(x, 0.9, some_basis(x, m), tile_rows=tile_rows)
    assert match.tolist() == [-1, 0, 0, 0, 0]
    assert score[1:].tolist() == [1.0] * 4


@pytest.mark.parametrize("m", [0, 1])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_tiny_and_huge_norms_and_opposite_rows(scale: float, m: int) -> None:
    x = f32([[3, 4], [-3, -4], [3, 4.001]]) * np.float32(scale)
    match, score, _ = match_earlier(x, 0.9, some_basis(x, m))
    assert match.tolist() == [-1, -1, 0]
    assert 0.9999 < score[2] < 1


@pytest.mark.parametrize("m", [0, 1, 5])
def test_one_row_and_a_rank_one_set(m: int) -> None:
    assert match_earlier(np.ones((1, 3), np.float32), 0.5)[0].tolist() == [-1]
    line = np.arange(1, 40, dtype=np.float32)[:, None] * np.ones((1, 5), np.float32)
    match, score, _ = match_earlier(line, 1 - 1e-9, some_basis(line, m), tile_rows=4)
    assert match[0] == -1
    assert (match[1:] >= 0).all()
    np.testing.assert_allclose(score[1:], 1, rtol=0, atol=1e-15)


@pytest.mark.parametrize("m", [0, 1, 2])
def test_a_guest_that_is_as_similar_and_earlier_wins_over_a_clip_at_home(m: int) -> None:
    x = np.exp2(np.arange(10))[:, None].astype(np.float32) * f32([[1, 1]])  # all score exactly 1
    home = np.arange(10) >= 5
    match, score, _ = match_earlier(x, 0.9, some_basis(x, m), [Unit(home)], 2)
    assert match.tolist() == [-1] * 5 + [0] * 5
    assert score[5:].tolist() == [1.0] * 5


def test_copies_at_home_and_as_guests_are_not_confused() -> None:
    x = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    home = np.array([False, False, True, False, False, False])
    match, _, _ = match_earlier(x, 0.5, units=[Unit(home)])
    assert match.tolist() == [-1, 0, 0, -1, 3, 3]  # a copy is a match wherever it is


def test_many_copies_cost_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pairs(*_args: object) -> None:
        pytest.fail("a pair of copies was scored")

    monkeypatch.setattr("udfs.similarity.cosines", no_pairs)
    match, _, _ = match_earlier(np.repeat(np.eye(2, 8, dtype=np.float32), 5000, axis=0), 0.5)
    assert match[[0, 1, 5000, 9999]].tolist() == [-1, 0, -1, 5000]
