import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.parts import in_parts
from udfs.units import Sweep

SIDES = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.booleans()), min_size=1, max_size=5)


class NoRoomError(Exception):
    pass


def pairs(rows: np.ndarray, sweeps: list[Sweep]) -> list[frozenset[int]]:
    found = []
    for a, b in sweeps:
        both = [(i, j) for n, i in enumerate(a) for j in (b[:n] if a is b else b)]
        found += [frozenset((int(rows[i]), int(rows[j]))) for i, j in both]
    return found


@settings(max_examples=200)
@given(SIDES, st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**31))
def test_parts_that_fit_make_up_the_whole(sides: list[tuple[int, int, bool]], fits: int, room: int, seed: int) -> None:
    """`fits` rows by the estimate, `room` in truth."""
    rng = np.random.default_rng(seed)
    sweeps: list[Sweep] = []
    for rows, cols, triangle in sides:
        one, other = np.split(rng.permutation(30)[: rows + cols], [rows])
        sweeps.append((one, one if triangle else other))
    done: list[frozenset[int]] = []
    tried = []

    def work(rows: np.ndarray, part: list[Sweep]) -> None:
        tried.append(len(rows))
        if len(rows) > room:
            raise NoRoomError
        done.extend(pairs(rows, part))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("udfs.parts.memory_limit", lambda: 10 * fits)
        patch.setattr("udfs.parts.out_of_memory", lambda: NoRoomError)
        patch.setattr("udfs.parts.release_memory", lambda: None)
        in_parts(sweeps, 30, 10, work)
    assert max(tried, default=0) <= fits
    expected = pairs(np.arange(30), sweeps)
    assert sorted(map(sorted, done)) == sorted(map(sorted, expected))


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udfs.parts.memory_limit", lambda: 1000)
    monkeypatch.setattr("udfs.parts.out_of_memory", lambda: NoRoomError)
    rows = np.arange(4)

    def work(_rows: np.ndarray, _part: list[Sweep]) -> None:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        in_parts([(rows, rows)], 4, 10, work)
