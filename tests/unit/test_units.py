import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.units import blocks_needed, cut


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 4)), max_size=40), st.integers(1, 5))
def test_any_two_clips_of_a_cell_meet_in_one_unit(placements: list[tuple[int, int]], most: int) -> None:
    keys = np.array([key for key, _ in placements], np.int64)
    cells = np.array([cell for _, cell in placements], np.int64)
    blocks = np.array([1, most, 2, 1, 3])
    row, a, b, second = cut(keys, cells, blocks)
    assert (a <= b).all()
    assert (b < np.where(cells[row] < 0, 1, blocks[np.maximum(cells[row], 0)])).all()
    assert not second[a == b].any()
    units: dict[tuple[int, int, int], list[tuple[int, bool]]] = {}
    for r, unit_a, unit_b, in_b in zip(row.tolist(), a.tolist(), b.tolist(), second.tolist(), strict=True):
        units.setdefault((int(cells[r]), unit_a, unit_b), []).append((r, in_b))
    met = [
        frozenset((r, s))
        for (_, unit_a, unit_b), members in units.items()
        for n, (r, in_b) in enumerate(members)
        for s, also_in_b in members[:n]
        if unit_a == unit_b or in_b != also_in_b
    ]
    expected = {frozenset((r, s)) for r in range(len(keys)) for s in range(r) if cells[r] == cells[s]}
    assert len(met) == len(expected)
    assert set(met) == expected


def test_blocks_are_even_and_hold_about_what_they_may() -> None:
    blocks = blocks_needed({0: 10, 1: 11, 3: 100_000}, 10, 5)
    assert blocks.tolist() == [1, 2, 1, 10_000, 1]
    keys = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, size=50_000)
    _, a, _, _ = cut(keys, np.zeros(50_000, np.int64), np.array([5]))
    row, a, b, _ = cut(keys, np.zeros(50_000, np.int64), np.array([5]))
    own = np.bincount(a[a == b], minlength=5)
    assert own.sum() == 50_000
    assert own.min() == pytest.approx(10_000, rel=0.05)
    assert len(row) == 250_000
