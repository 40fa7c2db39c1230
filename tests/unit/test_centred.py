import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.centred import Centred, centre_of
from udfs.vectors import screen_margin, squared_norms


def group_with_others(n: int, dim: int, spread: float, others: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows near one, and which of all are not."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, dim)) + spread * rng.standard_normal((n, dim))
    far = rng.random(n) < others
    x[far] = rng.standard_normal((int(far.sum()), dim))
    return (x * 10 ** rng.uniform(-3, 3, (n, 1))).astype(np.float32), far


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(2, 600),
    st.sampled_from([0.0, 1e-7, 1e-4, 1e-2, 0.3]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(0, 2**31),
)
def test_cosines_lie_within_the_bound(n: int, dim: int, spread: float, others: float, seed: int) -> None:
    x, _ = group_with_others(n, dim, spread, others, seed)
    x_sq = squared_norms(x)
    rng = np.random.default_rng(seed)
    rows, cols = rng.integers(n, size=20), rng.integers(n, size=30)
    found = Centred(x, x_sq, int(rng.integers(n))).cosines(rows, cols)
    if found:
        cosine, margin = found
        long = x.astype(np.longdouble)
        norms = np.sqrt((long * long).sum(axis=1))
        exact = (long[rows] @ long[cols].T) / norms[rows][:, None] / norms[cols]
        assert np.abs(cosine - exact).max() <= margin


def test_a_group_is_told_apart_finer_than_by_float32() -> None:
    x, far = group_with_others(500, 384, 1e-3, 0.1, 0)
    x_sq = squared_norms(x)
    rows = np.argsort(~far, kind="stable")
    (centre,) = centre_of(x, x_sq, rows)
    assert far[rows[0]]
    assert not far[centre]
    found = Centred(x, x_sq, int(centre)).cosines(rows, rows)
    assert found is not None
    cosine, margin = found
    assert margin < screen_margin(384) / 1e4
    assert cosine.shape == (500, 500)


def test_without_a_group_there_is_no_centre() -> None:
    x, _ = group_with_others(500, 384, 1e-3, 1.0, 0)
    x_sq = squared_norms(x)
    rows = np.arange(500)
    assert len(centre_of(x, x_sq, rows)) == 0
    assert Centred(x, x_sq, 0).cosines(rows, rows) is None
    mixed, _ = group_with_others(500, 384, 1e-3, 0.4, 0)
    assert Centred(mixed, squared_norms(mixed), 1).cosines(rows, rows) is None
