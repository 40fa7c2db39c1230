import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.keysets import SEGMENTS, BloomFilter, SortedKeys, clip_keys, members, placement_keys

ANY_KEYS = st.lists(st.integers(0, 2**64 - 1), max_size=50)


def bloom(keys: np.ndarray, bits_per_key: int) -> BloomFilter:
    segment = BloomFilter.segment_of(keys)
    bits = bits_per_key * len(keys)
    return BloomFilter({n: BloomFilter.segment(keys[segment == n], bits) for n in np.unique(segment).tolist()})


@given(ANY_KEYS, ANY_KEYS)
def test_sorted_keys_are_exact(held: list[int], asked: list[int]) -> None:
    keys = SortedKeys(np.array(held, np.uint64))
    assert keys.contains(np.array(held + asked, np.uint64)).tolist() == [k in held for k in held + asked]


@settings(deadline=None)
@given(ANY_KEYS, st.integers(1, 16))
def test_a_filter_holds_all_its_keys(held: list[int], bits: int) -> None:
    keys = np.array(held, np.uint64)
    assert bloom(keys, bits).contains(keys).all()


@pytest.mark.parametrize(("bits", "share"), [(8, 0.05), (16, 0.003)])
def test_a_filter_lets_few_others_through(bits: int, share: float) -> None:
    keys = clip_keys(pa.array([f"clip-{n}" for n in range(200_000)]))
    held = bloom(keys[:100_000], bits)
    assert held.contains(keys[:100_000]).all()
    assert held.contains(keys[100_000:]).mean() < share


def test_an_empty_filter_holds_nothing() -> None:
    assert not BloomFilter({}).contains(np.arange(1000, dtype=np.uint64)).any()


def test_keys_differ_by_clip_and_by_cell() -> None:
    ids = pa.array(["", "a", "b", "é", "a\n", "x" * 10_000])
    assert clip_keys(ids).tolist() == clip_keys(ids.cast(pa.large_string())).tolist()
    assert clip_keys(ids.slice(2, 2)).tolist() == clip_keys(ids)[2:4].tolist()
    keys = np.repeat(clip_keys(ids), 100)
    placed = placement_keys(keys, np.tile(np.arange(100), len(ids)))
    assert len(set(placed.tolist()) | set(keys.tolist())) == 606
    assert len(set((BloomFilter.segment_of(placed)).tolist())) == SEGMENTS
    held = members(keys.view(np.int64), np.tile(np.arange(100, dtype=np.int32), len(ids)))
    assert set(held.tolist()) == set(placed.tolist()) | set(keys.tolist())
