import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import real_embeddings
from udfs.screening import survivors
from udfs.sketches import principal_basis, sketch
from udfs.units import sweeps, tiles
from udfs.vectors import squared_norms, unit_rows


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(2, 400),
    st.sampled_from([1.0, 0.1, 1e-3]),
    st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    st.sampled_from([1, 15, 47]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_no_row_with_a_match_is_screened_out(
    n: int, dim: int, spread: float, min_score: float, m: int, cut: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, dim))[rng.integers(4, size=n)] + spread * rng.standard_normal((n, dim))
    vectors = x.astype(np.float32)
    unit = unit_rows(vectors, squared_norms(vectors))
    codes = sketch(unit, np.ascontiguousarray(principal_basis(unit)[:, :m]))
    home = rng.random(n) < 0.6
    second = rng.random(n) < 0.5 if cut else None
    found, pairs = survivors(codes, min_score, home, second)

    allowed = home[:, None] | home
    if second is not None:
        allowed &= second[:, None] != second
    np.fill_diagonal(allowed, False)
    exact = unit.astype(float) @ unit.T.astype(float)
    assert found[(allowed & (exact >= min_score)).any(axis=1)].all()
    assert not found[~allowed.any(axis=1)].any()
    assert pairs == allowed.sum() // 2


@pytest.mark.parametrize("tile_rows", [1, 50, 512])
def test_most_real_embeddings_without_a_match_are_screened_out(tile_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udfs.screening.TILE_ROWS", tile_rows)
    x = real_embeddings()[1].astype(np.float32)[:600]
    unit = unit_rows(x, squared_norms(x))
    codes = sketch(unit, np.ascontiguousarray(principal_basis(unit)[:, :47]))
    found, pairs = survivors(codes, 0.99, np.ones(600, bool))
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


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20), st.booleans())
def test_sweeps_compare_homes_with_all_once(clips: list[tuple[bool, bool]], cut: bool) -> None:
    home, second = np.array(clips, bool).reshape(-1, 2).T
    seen: list[frozenset[int]] = []
    for rows, cols in sweeps(home, second if cut else None):
        if rows is cols:
            seen += [frozenset((a, b)) for n, a in enumerate(rows) for b in rows[:n]]
        else:
            seen += [frozenset((a, b)) for a in rows for b in cols]
    n = len(clips)
    expected = {
        frozenset((a, b))
        for a in range(n)
        for b in range(a)
        if (home[a] or home[b]) and (not cut or second[a] != second[b])
    }
    assert len(seen) == len(expected)
    assert set(seen) == expected
