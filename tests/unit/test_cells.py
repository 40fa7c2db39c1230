import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import f32
from udfs.cells import assign


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 300), st.integers(0, 2**31))
def test_rows_go_to_the_nearest_centroid(n: int, k: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim)).astype(np.float32)
    centroids = (0.5 * rng.standard_normal((k, dim))).astype(np.float32)
    cluster, distance = assign(x, centroids)
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    gaps = ((unit[:, None] - centroids.astype(float)) ** 2).sum(2)
    np.testing.assert_allclose(gaps[np.arange(n), cluster], gaps.min(1), rtol=1e-12)
    c = centroids[cluster].astype(float)
    np.testing.assert_allclose(distance, 1 - (unit * c).sum(1) / np.linalg.norm(c, axis=1), atol=1e-12)


def test_close_calls_are_decided_in_float64_and_alike_in_any_batch() -> None:
    rng = np.random.default_rng(1)
    centroids = np.repeat(rng.standard_normal((1, 2048)) / 45, 20, axis=0).astype(np.float32)
    centroids += 1e-8 * rng.standard_normal(centroids.shape).astype(np.float32)
    x = rng.standard_normal((100, 2048)).astype(np.float32)
    whole, distance = assign(x, centroids)
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    gaps = ((unit[:, None] - centroids.astype(float)) ** 2).sum(2)
    assert (gaps[np.arange(100), whole] - gaps.min(1)).max() < 1e-12  # float32 alone is off by 1e-8
    for rows in (slice(0, 1), slice(3, 10), slice(20, 99)):
        part, part_distance = assign(x[rows], centroids)
        assert part.tolist() == whole[rows].tolist()
        assert part_distance.tolist() == distance[rows].tolist()


def test_equal_centroids_give_the_lowest_number() -> None:
    cluster, distance = assign(f32([[1, 2], [2, 4]]), f32([[0, 1], [1, 2], [1, 2]]) / np.float32(3))
    assert cluster.tolist() == [1, 1]
    assert distance.tolist() == [0.0, 0.0]


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x, centroids = rng.standard_normal((50, 8)).astype(np.float32), rng.standard_normal((6, 8)).astype(np.float32)
    whole = assign(x, centroids)
    monkeypatch.setattr("udfs.cells._BLOCK_ELEMENTS", 13)
    assert [a.tolist() for a in assign(x, centroids)] == [a.tolist() for a in whole]


def test_a_zero_centroid_is_at_distance_one() -> None:
    cluster, distance = assign(f32([[1, 0]]), f32([[0, 0]]))
    assert (cluster[0], distance[0]) == (0, 1.0)
