import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reference import real_embeddings
from udfs.device import to_gpu, to_host
from udfs.sketches import coordinate_margin, coordinates, principal_basis
from udfs.tensor_screen import Halves, half_margin, halved, list_pairs, mark
from udfs.units import Sweep
from udfs.vectors import squared_norms, unit_rows

EMULATED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tensor_core_products(a: Halves, b: Halves) -> np.ndarray:
    """Products as the worst tensor core adds them: four terms at a time, cut to 24 bits of the largest."""
    total = np.zeros((len(a), len(b)))
    for k in range(0, a.shape[1], 4):
        terms = a[:, None, k : k + 4].astype(float) * b[None, :, k : k + 4].astype(float)
        terms = np.concatenate([total[:, :, None], terms], axis=2)
        _, exponent = np.frexp(np.abs(terms).max(axis=2))
        bit = np.ldexp(1.0, exponent - 24)[:, :, None]
        summed = (np.trunc(terms / bit) * bit).sum(axis=2)
        _, exponent = np.frexp(np.abs(summed))
        bit = np.ldexp(1.0, exponent - 24)
        total = np.trunc(summed / bit) * bit
    return total


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(2, 400),
    st.sampled_from([1.0, 0.1, 1e-2, 1e-4]),
    st.sampled_from([1, 15, 31, 47, 127]),
    st.integers(0, 2**31),
)
def test_no_cosine_lies_above_the_half_precision_product_by_more_than_the_margins(
    n: int, dim: int, spread: float, m: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((3, dim))[rng.integers(3, size=n)] + spread * rng.standard_normal((n, dim))).astype("f4")
    x[:, :2] *= np.float32(rng.choice([1, 1e-4, 1e4]))  # some coordinates tiny beside others
    unit = unit_rows(x, squared_norms(x))
    basis = np.ascontiguousarray(principal_basis(unit)[:, : min(m, dim)])
    codes = halved(coordinates(unit, basis))
    assert codes.shape[1] % 16 == 0
    m = basis.shape[1]
    margin = coordinate_margin(m) + half_margin(m)
    exact = unit.astype(float) @ unit.T.astype(float)
    assert (exact <= tensor_core_products(codes, codes) + margin).all()
    np.testing.assert_allclose(codes[:, :m], coordinates(unit, basis)[:, :m], rtol=2**-11, atol=2**-25)


def test_the_margin_is_of_the_order_of_half_precision() -> None:
    assert 2**-10 < half_margin(15) < half_margin(63) < 2 * 2**-10


@given(st.integers(0, 2**31))
def test_the_norm_of_the_rest_is_never_rounded_down(seed: int) -> None:
    rest = (2.0 ** np.random.default_rng(seed).uniform(-30, 0, 100)).astype(np.float32)
    codes = halved(np.stack([rest, rest], axis=1))
    assert (codes[:, 1].astype(np.float64) >= rest).all()
    assert (codes[:, 1] <= rest * (1 + 2**-8) + 2**-22).all()


def some_codes(n: int, seed: int) -> Halves:
    rows = np.random.default_rng(seed).integers(-4, 5, size=(n, 16)) / 8  # so coarse that sums are exact
    codes: Halves = rows.astype(np.float16)
    return codes


def expected_pairs(codes: Halves, sweeps: list[Sweep], floor: float) -> list[tuple[int, int]]:
    product = codes.astype(float) @ codes.T.astype(float)
    found = []
    for rows, cols in sweeps:
        hit = product[np.ix_(rows, cols)] >= floor
        if rows is cols:
            hit &= np.tri(len(rows), k=-1, dtype=bool)
        i, j = np.nonzero(hit)
        found += list(zip(rows[i].tolist(), cols[j].tolist(), strict=True))
    return sorted(found)


@pytest.mark.usefixtures("gpu")
@EMULATED
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.booleans()), min_size=1, max_size=4),
    st.sampled_from([-10.0, 0.9, 1.6]),
    st.integers(0, 2**31),
)
def test_the_kernels_find_the_pairs_of_all_sweeps(sizes: list[tuple[int, int, bool]], floor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = some_codes(400, seed)
    sweeps: list[Sweep] = []
    for rows, cols, triangle in sizes:
        some = rng.permutation(400)[:rows]
        sweeps.append((some, some if triangle else rng.permutation(400)[:cols]))
    expected = expected_pairs(codes, sweeps, floor)
    found = list_pairs(to_gpu(codes), sweeps, floor, len(expected) + 1)
    assert found is not None
    assert sorted(zip(*(to_host(part).tolist() for part in found), strict=True)) == expected
    flags = np.zeros(400, bool)
    flags[[row for pair in expected for row in pair]] = True
    assert to_host(mark(to_gpu(codes), sweeps, floor)).tolist() == flags.tolist()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("triangle", [True, False])
def test_the_kernels_go_through_several_strips(triangle: bool) -> None:
    codes = some_codes(2300, 0)  # a strip is 1024 columns
    rows = np.random.default_rng(0).permutation(2300)
    sweeps: list[Sweep] = [(rows, rows)] if triangle else [(rows[:140], rows[140:])]
    floor = 1.4
    expected = expected_pairs(codes, sweeps, floor)
    assert len(expected) > 100
    found = list_pairs(to_gpu(codes), sweeps, floor, 1 << 20)
    assert found is not None
    assert sorted(zip(*(to_host(part).tolist() for part in found), strict=True)) == expected


@pytest.mark.usefixtures("gpu")
def test_more_pairs_than_there_is_room_for_are_said_to_be_too_many() -> None:
    codes = some_codes(200, 1)
    rows = np.arange(200)
    expected = expected_pairs(codes, [(rows, rows)], 0.5)
    number = len(expected)
    assert number > 1000
    for capacity in (0, 1, number - 1):
        assert list_pairs(to_gpu(codes), [(rows, rows)], 0.5, capacity) is None
    exact = list_pairs(to_gpu(codes), [(rows, rows)], 0.5, number)
    assert exact is not None
    assert sorted(zip(*(to_host(part).tolist() for part in exact), strict=True)) == expected
    nothing = list_pairs(to_gpu(codes), [], 0.5, 10)
    assert nothing is not None
    assert len(nothing[0]) == 0


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("m", [15, 31, 47, 63, 95, 127])
def test_every_width_of_real_embeddings(m: int) -> None:
    x = real_embeddings()[1][:150].astype(np.float32)
    unit = unit_rows(x, squared_norms(x))
    bounding = coordinates(unit, np.ascontiguousarray(principal_basis(unit)[:, :m]))
    codes = halved(to_gpu(bounding))
    np.testing.assert_array_equal(to_host(codes), halved(bounding))
    rows = np.arange(150)
    product = to_host(codes).astype(float) @ to_host(codes).T.astype(float)
    some = np.unique(product[np.tril_indices(150, -1)])[-100:-20]
    gap = int(np.argmax(np.diff(some)))
    assert some[gap + 1] - some[gap] > 1e-4  # more than what the additions may err
    floor = float(some[gap : gap + 2].mean())
    found = list_pairs(codes, [(rows, rows)], floor, 1000)
    assert found is not None
    assert sorted(zip(*(to_host(part).tolist() for part in found), strict=True)) == expected_pairs(
        to_host(codes), [(rows, rows)], floor
    )
