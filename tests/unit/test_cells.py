import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import f32
from udfs.cells import Cells, Placement, bordering_pairs


def assign(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    placed = Cells(centroids).place(x)
    assert len(placed.guest_rows) == len(placed.guest_cells) == 0
    return placed.home, placed.distance


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


def met_in(placed: Placement, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) which clips are at home, and which are at all, in which cells."""
    home = np.arange(k) == placed.home[:, None]
    held = home.copy()
    held[placed.guest_rows, placed.guest_cells] = True
    return home, held


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 60),
    st.integers(1, 30),
    st.integers(2, 300),
    st.sampled_from([1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 1.0, 30.0]),
    st.integers(0, 2**31),
)
def test_every_similar_pair_meets_in_a_cell_where_one_is_at_home(
    n: int, k: int, dim: int, eps: float, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    x[n // 2 :] = x[: n - n // 2]  # pairs at just about the distance of eps, in all directions
    x[n // 2 :] += np.sqrt(2 * eps) * rng.standard_normal((n - n // 2, dim)) * np.linalg.norm(x) / np.sqrt(n * dim)
    vectors = (x * 10 ** rng.uniform(-1, 1, (n, 1))).astype(np.float32)
    centroids = (rng.standard_normal((k, dim)) * (1 + spread * rng.random((k, 1))) / np.sqrt(dim)).astype(np.float32)
    centroids[0] = centroids[-1]
    placed = Cells(centroids, eps).place(vectors, near=True)
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    similar = unit @ unit.T >= 1 - eps
    home, held = met_in(placed, k)
    meets = (home.astype(int) @ held.T.astype(int)) > 0
    assert (meets | meets.T)[similar].all()
    near = home.copy()  # which clips are near the border to, or at home in, which cells
    near[placed.near_rows, placed.near_cells] = True
    guest_of_home = held[:, placed.home]  # row i in the cell of row j, to which row j then has to be near
    compared = guest_of_home & near[:, placed.home].T
    assert (compared | compared.T)[similar].all()

    guests = Cells(centroids, eps).place(vectors)
    assert guests.near_rows.tolist() == placed.guest_rows.tolist()
    assert guests.near_cells.tolist() == placed.guest_cells.tolist()


def test_guests_of_many_cells_are_the_same_without_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    x, centroids = rng.standard_normal((300, 16)).astype(np.float32), rng.standard_normal((40, 16)).astype(np.float32)
    centroids /= np.float32(4)
    table = Cells(centroids, 0.05).place(x)
    monkeypatch.setattr("udfs.cells._TABLE_CELLS", 0)
    pairwise = Cells(centroids, 0.05).place(x)
    assert 0 < len(table.guest_rows) < 300 * 20
    assert table.guest_rows.tolist() == pairwise.guest_rows.tolist()
    assert table.guest_cells.tolist() == pairwise.guest_cells.tolist()


def test_only_clips_near_a_border_are_guests() -> None:
    angle = np.radians([0, 30, 44, 46, 60, 90])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    placed = Cells(np.eye(2, dtype=np.float32), 0.001).place(x)  # r / 2 is 1.28 degrees
    assert placed.home.tolist() == [0, 0, 0, 1, 1, 1]
    assert placed.guest_rows.tolist() == [2, 3]
    assert placed.guest_cells.tolist() == [1, 0]
    wider = Cells(np.eye(2, dtype=np.float32), 0.004).place(x, near=True)  # r / 2 is 2.56 degrees, r 5.13
    assert wider.near_rows.tolist() == wider.guest_rows.tolist() == [2, 3]
    widest = Cells(np.eye(2, dtype=np.float32), 0.05).place(x, near=True)  # r / 2 is 9.1 degrees, r 18.2
    assert widest.guest_rows.tolist() == [2, 3]
    assert widest.near_rows.tolist() == [1, 2, 3, 4]
    assert widest.near_cells.tolist() == [1, 1, 0, 0]


def test_bordering_pairs_are_counted() -> None:
    rng = np.random.default_rng(6)
    x, centroids = rng.standard_normal((300, 8)).astype(np.float32), rng.standard_normal((7, 8)).astype(np.float32)
    placed = Cells(centroids, 0.02).place(x, near=True)
    near = list(zip(placed.near_rows.tolist(), placed.near_cells.tolist(), strict=True))
    guests = zip(placed.guest_rows.tolist(), placed.guest_cells.tolist(), strict=True)
    home = placed.home.tolist()
    expected = sum((home[row], cell) == (there, home[guest]) for guest, there in guests for row, cell in near)
    assert bordering_pairs(placed) == expected > 100
    assert bordering_pairs(Cells(centroids).place(x, near=True)) == 0


def test_no_rows_have_no_guests() -> None:
    placed = Cells(np.eye(2, dtype=np.float32), 0.1).place(np.empty((0, 2), np.float32))
    assert len(placed.home) == len(placed.guest_rows) == 0
