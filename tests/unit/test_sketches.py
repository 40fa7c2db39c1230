import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import real_embeddings
from udfs.sketches import (
    SCALE,
    coordinate_margin,
    coordinates,
    principal_basis,
    sketch,
    sketch_margin,
)
from udfs.vectors import cosines, squared_norms, unit_rows


def rows_of(kind: str, n: int, dim: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((1, dim)) + spread * rng.standard_normal((n, dim))
    if kind == "rank one":
        x = x[:1] * rng.uniform(-1, 1, (n, 1))
    elif kind == "identical":
        x[:] = x[0]
    elif kind == "antipodal":
        x[::2] = -x[0]
    elif kind == "axes":
        x = np.eye(dim)[rng.integers(dim, size=n)]
    scaled: np.ndarray = x * 10.0 ** rng.uniform(-12, 12)
    return scaled


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["blob", "rank one", "identical", "antipodal", "axes"]),
    st.integers(2, 2048),
    st.integers(0, 130),
    st.sampled_from([1.0, 1e-1, 1e-3, 1e-6]),
    st.sampled_from([np.float16, np.float32]),
    st.integers(0, 2**31),
)
def test_no_cosine_lies_above_its_bound(kind: str, dim: int, m: int, spread: float, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rows_of(kind, 12, dim, spread, rng)
    x = (x / np.abs(x).max()).astype(dtype) if dtype is np.float16 else x.astype(np.float32)
    x = x.astype(np.float32)
    x = x[x.any(axis=1)]
    x_sq = squared_norms(x)
    unit = unit_rows(x, x_sq)
    basis = np.linalg.qr(rng.standard_normal((dim, min(m, dim))))[0]
    if rng.random() < 0.5:
        basis = np.ascontiguousarray(principal_basis(unit)[:, : min(m, dim)])
    i, j = (a.ravel() for a in np.indices((len(x), len(x))))
    cosine = cosines(x, i, x, j, x_sq, x_sq).reshape(len(x), -1)

    for packed, scale in ((sketch(unit, basis), SCALE), (coordinates(unit, basis), 1)):
        stored = packed.astype(float) / scale
        rest = unit - stored[:, :-1] @ basis.T
        assert (stored[:, -1] ** 2 >= (rest * rest).sum(axis=1)).all()
    full = coordinates(unit, basis)
    assert (cosine <= full @ full.T + coordinate_margin(basis.shape[1])).all()
    codes = sketch(unit, basis).astype(np.float32)
    assert (cosine <= (codes @ codes.T) / SCALE**2 + sketch_margin(basis.shape[1])).all()


def test_bounds_of_real_embeddings_are_tight_enough_to_be_of_use() -> None:
    x = real_embeddings()[1].astype(np.float32)
    x_sq = squared_norms(x)
    unit = unit_rows(x, x_sq)
    basis = principal_basis(unit)
    np.testing.assert_allclose(basis.T @ basis, np.eye(384), atol=1e-12)
    shares = []
    for m in (7, 31, 127, 384):
        codes = sketch(unit, np.ascontiguousarray(basis[:, :m])).astype(np.float32)
        shares.append(float(np.mean(codes @ codes.T / SCALE**2 >= 0.99)))
    assert shares == sorted(shares, reverse=True)
    assert shares[1] < 0.02
    assert shares[3] == pytest.approx(float(np.mean(unit @ unit.T >= 0.99)), rel=0.1)
