import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import brute_force, f32, real_embeddings
from udfs.similarity import match_earlier


def check(vectors: np.ndarray, min_score: float, tile_rows: int = 1024) -> None:
    match, score = match_earlier(vectors.astype(np.float32), min_score, tile_rows)
    expected_match, expected_score = brute_force(vectors, min_score)
    assert match.tolist() == expected_match
    np.testing.assert_allclose(score, [np.nan if s is None else s for s in expected_score], rtol=0, atol=1e-14)


@pytest.mark.parametrize("tile_rows", [1, 7, 100, 1024])
@pytest.mark.parametrize("min_score", [0.999, 0.9, 0.5])
def test_real_embeddings_match_as_brute_force_says(tile_rows: int, min_score: float) -> None:
    _, embeddings = real_embeddings()
    check(embeddings[:250], min_score, tile_rows)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(2, 2048),
    st.sampled_from([1.0, 1e-1, 1e-3, 1e-5, 1e-7]),
    st.sampled_from([0.0, 0.9, 0.99, 0.999, 1.0]),
    st.sampled_from([3, 16, 1024]),
    st.sampled_from([np.float16, np.float32]),
    st.integers(0, 2**31),
)
def test_clustered_rows_match_as_brute_force_says(
    n: int, dim: int, spread: float, min_score: float, tile_rows: int, dtype: type, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((3, dim))
    rows: np.ndarray = (centers[rng.integers(3, size=n)] + spread * rng.standard_normal((n, dim))).astype(dtype)
    rows[rng.integers(n)] = rows[rng.integers(n)]
    match, score = match_earlier(rows.astype(np.float32), min_score, tile_rows)
    for i in range(n):  # scores first: where two candidates differ by rounding alone either order is right
        others = [(rows[i].astype(float) @ rows[j].astype(float)) for j in range(i)]
        norms = np.sqrt((rows.astype(float) ** 2).sum(1))
        cosine = np.array(others) / (norms[:i] * norms[i]) if i else np.empty(0)
        best = cosine.max(initial=-2)
        if abs(best - min_score) > 1e-12:
            assert (match[i] >= 0) == (best > min_score)
        if match[i] >= 0:
            assert score[i] == pytest.approx(best, abs=1e-12)
            assert cosine[match[i]] == pytest.approx(best, abs=1e-12)
            assert match[i] < i


def test_ties_go_to_the_earliest_row() -> None:
    x = f32([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    match, score = match_earlier(x, 0.0)
    assert match.tolist() == [-1, 0, 0, 1, 0]
    assert score[1:].tolist() == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("tile_rows", [1, 2, 1024])
def test_copies_of_a_scaled_row_match_the_row_that_came_first(tile_rows: int) -> None:
    x = f32([[1, 1], [2, 2], [2, 2], [4, 4], [2, 2]])
    match, score = match_earlier(x, 0.9, tile_rows)
    assert match.tolist() == [-1, 0, 0, 0, 0]
    assert score[1:].tolist() == [1.0] * 4


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_tiny_and_huge_norms_and_opposite_rows(scale: float) -> None:
    x = f32([[3, 4], [-3, -4], [3, 4.001]]) * np.float32(scale)
    match, score = match_earlier(x, 0.9)
    assert match.tolist() == [-1, -1, 0]
    assert 0.9999 < score[2] < 1


def test_one_row_and_a_rank_one_set() -> None:
    assert match_earlier(np.ones((1, 3), np.float32), 0.5)[0].tolist() == [-1]
    line = np.arange(1, 40, dtype=np.float32)[:, None] * np.ones((1, 5), np.float32)
    match, score = match_earlier(line, 1 - 1e-9, tile_rows=4)
    assert match[0] == -1
    assert (match[1:] >= 0).all()
    np.testing.assert_allclose(score[1:], 1, rtol=0, atol=1e-15)


def test_many_copies_cost_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pairs(*_args: object) -> None:
        pytest.fail("a pair of copies was scored")

    monkeypatch.setattr("udfs.similarity.cosines", no_pairs)
    match, _ = match_earlier(np.repeat(np.eye(2, 8, dtype=np.float32), 5000, axis=0), 0.5)
    assert match[[0, 1, 5000, 9999]].tolist() == [-1, 0, -1, 5000]
