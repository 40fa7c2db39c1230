import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import udfs.screening
from tests.reference import real_embeddings
from udfs.screening import survivors
from udfs.sketches import principal_basis, sketch
from udfs.units import Borders, Unit, tiles
from udfs.vectors import squared_norms, unit_rows


def compared(home: np.ndarray, second: np.ndarray | None, borders: Borders | None) -> np.ndarray:
    """(n, n) whether two rows of a unit are to be compared."""
    allowed: np.ndarray = home[:, None] & home
    visits = home[:, None] & ~home
    if borders is not None:
        near = np.zeros((len(home), 5), bool)
        near[borders.near_rows, borders.near_cells] = True
        visits &= near[:, borders.origin]
    allowed |= visits | visits.T
    if second is not None:
        allowed &= second[:, None] != second
    np.fill_diagonal(allowed, False)
    return allowed


def some_borders(n: int, rng: np.random.Generator) -> Borders:
    """Of five cells, each row near some at random."""
    near = np.argwhere(rng.random((n, 5)) < 0.3)
    return Borders(rng.integers(5, size=n), near[:, 0], near[:, 1])


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(2, 400),
    st.sampled_from([1.0, 0.1, 1e-3]),
    st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    st.sampled_from([1, 15, 47]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([7, 512]),
    st.integers(0, 2**31),
)
def test_no_row_with_a_match_is_screened_out(
    n: int, dim: int, spread: float, min_score: float, m: int, cut: bool, bordered: bool, tile: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, dim))[rng.integers(4, size=n)] + spread * rng.standard_normal((n, dim))
    vectors = x.astype(np.float32)
    unit = unit_rows(vectors, squared_norms(vectors))
    codes = sketch(unit, np.ascontiguousarray(principal_basis(unit)[:, :m]))
    home = rng.random(n) < 0.6
    second = rng.random(n) < 0.5 if cut else None
    borders = some_borders(n, rng) if bordered else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("udfs.screening.TILE_ROWS", tile)
        found, pairs = survivors(codes, min_score, [Unit(home, second, borders)])

    allowed = compared(home, second, borders)
    exact = unit.astype(float) @ unit.T.astype(float)
    assert found[(allowed & (exact >= min_score)).any(axis=1)].all()
    assert not found[~allowed.any(axis=1)].any()
    assert pairs == allowed.sum() // 2


def test_a_dense_group_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udfs.screening.TILE_ROWS", 50)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 64)).astype(np.float32)
    x[rng.permutation(1000)[:800]] = x[0] + np.float32(1e-4) * x[:800]
    unit = unit_rows(x, squared_norms(x))
    codes = sketch(unit, np.ascontiguousarray(principal_basis(unit)[:, :15]))
    multiplied = 0

    def mark(a: np.ndarray, b: np.ndarray, *rest: object, **more: bool) -> None:
        nonlocal multiplied
        multiplied += len(a) * len(b)
        plainly(a, b, *rest, **more)  # type: ignore[arg-type]

    plainly = udfs.screening._mark
    monkeypatch.setattr("udfs.screening._mark", mark)
    found, pairs = survivors(codes, 0.99, [Unit(np.ones(1000, bool))])
    exact = unit.astype(float) @ unit.T.astype(float) - 2 * np.eye(1000)
    assert found[(exact >= 0.99).any(axis=1)].all()
    assert found.sum() < 900
    assert pairs == 1000 * 999 // 2
    assert multiplied < 0.6 * pairs


@pytest.mark.parametrize("tile_rows", [1, 50, 512])
def test_most_real_embeddings_without_a_match_are_screened_out(tile_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udfs.screening.TILE_ROWS", tile_rows)
    x = real_embeddings()[1].astype(np.float32)[:600]
    unit = unit_rows(x, squared_norms(x))
    codes = sketch(unit, np.ascontiguousarray(principal_basis(unit)[:, :47]))
    found, pairs = survivors(codes, 0.99, [Unit(np.ones(600, bool))])
    exact = unit.astype(float) @ unit.T.astype(float) - 2 * np.eye(600)
    assert found[(exact >= 0.99).any(axis=1)].all()
    assert found.mean() < (exact >= 0.99).any(axis=1).mean() + 0.05
    assert pairs == 600 * 599 // 2


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 15))
def test_tiles_cover_each_pair_once(rows: int, cols: int, size: int) -> None:
    seen = np.zeros((rows, cols), int)
    for i, j in tiles(rows, cols, False, size):
        seen[i, j] += 1
    assert (seen == 1).all()
    lower = np.zeros((rows, rows), int)
    for i, j in tiles(rows, rows, True, size):
        lower[i, j] += 1
    assert (lower[np.tril_indices(rows)] == 1).all()


@given(st.integers(0, 20), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_sweeps_compare_each_pair_once(n: int, cut: bool, bordered: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    home, second = rng.random((2, n)) < 0.5
    borders = some_borders(n, rng) if bordered and n else None
    seen: list[frozenset[int]] = []
    for rows, cols in Unit(home, second if cut else None, borders).sweeps():
        if rows is cols:
            seen += [frozenset((a, b)) for n, a in enumerate(rows) for b in rows[:n]]
        else:
            seen += [frozenset((a, b)) for a in rows for b in cols]
    expected = {frozenset(pair) for pair in np.argwhere(compared(home, second if cut else None, borders)).tolist()}
    assert len(seen) == len(expected)
    assert set(seen) == expected
