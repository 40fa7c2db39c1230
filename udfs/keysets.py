"""Sets of 64-bit keys that every task can hold: exact as a sorted array, or smaller as a Bloom filter.

A clip's key is a hash of its id, a placement's one of (clip, cell). Two clips that share a key, like a false
positive of the filter, cost a needless comparison and never a lost one.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from udfs.units import Flags
from udfs.vectors import Indices

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Words = np.ndarray[Any, np.dtype[np.uint64]]

EVERY_DRAW = 2**63 - 1  # a limit that no draw is above
SEGMENTS = 64  # a Bloom filter is built in so many parts, one task each

_BLOCK_WORDS = 8  # a block of 512 bits, one cache line; a key sets one bit in each of its words
_SALT = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9], np.uint64)


class KeySet(Protocol):
    """Says of keys whether they may be in the set; never no of one that is."""

    def contains(self, keys: Keys) -> Flags: ...


def clip_keys(ids: pa.Array) -> Keys:
    """A key for each id, (n,) uint64."""
    return pd.util.hash_array(ids.to_numpy(zero_copy_only=False).astype(object), categorize=False)


def draws(ids: pa.Array, seed: int) -> Indices:
    """A number from 0 to 2**63 - 1 for each id, at random by the seed, (n,) int64; the greatest for null."""
    hashed = _mix(clip_keys(ids) + _mix(np.full(1, seed, np.uint64))) >> np.uint64(1)
    return np.where(ids.is_null().to_numpy(zero_copy_only=False), EVERY_DRAW, hashed.view(np.int64))


def placement_keys(keys: Keys, cells: Indices) -> Keys:
    """A key for each (clip, cell), from (n,) clip keys and (n,) cell numbers."""
    return _mix(keys ^ _mix((cells.astype(np.uint64) + np.uint64(1)) * _SALT[0]))


def members(keys: Indices, cells: np.ndarray[Any, np.dtype[np.int32]]) -> Keys:
    """What a set of surviving placements (key, cell) holds: the clip's key and the placement's, (2n,)."""
    clips = keys.view(np.uint64)
    return np.concatenate([clips, placement_keys(clips, cells.astype(np.int64))])


def _mix(x: Keys) -> Keys:
    """The finalizer of splitmix64 (Steele, Lea and Flood, 2014): each bit depends on all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class SortedKeys:
    """All keys, 8 bytes each."""

    def __init__(self, keys: Keys) -> None:
        self._keys = np.unique(keys)

    def contains(self, keys: Keys) -> Flags:
        at = np.searchsorted(self._keys, keys)
        at[at == len(self._keys)] = 0
        return self._keys[at] == keys if len(self._keys) else np.zeros(len(keys), bool)


class BloomFilter:
    """A blocked Bloom filter (Putze, Sanders and Singler, 2007) of SEGMENTS parts.

    With b bits per key it lets through about 1 of 1,000 other keys at b = 16, 1 of 50 at b = 8.
    """

    def __init__(self, segments: Mapping[int, Words]) -> None:
        """From the segments that hold any key, by number."""
        size = max((len(words) for words in segments.values()), default=_BLOCK_WORDS)
        self._words = np.zeros(SEGMENTS * size, np.uint64)
        for number, words in segments.items():
            self._words[number * size : (number + 1) * size] = words
        self._blocks = size // _BLOCK_WORDS  # in one segment

    @staticmethod
    def segment_of(keys: Keys) -> Keys:
        """The segment that holds each key."""
        return _mix(keys) % np.uint64(SEGMENTS)

    @staticmethod
    def segment(keys: Keys, total_bits: int) -> Words:
        """The part of a filter of about total_bits that holds these keys, all of one segment."""
        blocks = max(1, total_bits // (64 * _BLOCK_WORDS * SEGMENTS))
        words = np.zeros(blocks * _BLOCK_WORDS, np.uint64)
        where, bits = _positions(keys, blocks)
        np.bitwise_or.at(words, where.ravel(), bits.ravel())
        return words

    def contains(self, keys: Keys) -> Flags:
        where, bits = _positions(keys, self._blocks)
        where += self.segment_of(keys).astype(np.int64)[:, None] * (self._blocks * _BLOCK_WORDS)
        found: Flags = np.all(self._words[where] & bits, axis=1)
        return found


def _positions(keys: Keys, blocks: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Keys]:
    """The word numbers in a segment and the bit in each, (n, 8) both."""
    hashed = _mix(keys + _SALT[0])
    block = (hashed % np.uint64(blocks)).astype(np.int64)
    shifts = np.arange(_BLOCK_WORDS, dtype=np.uint64) * np.uint64(6)
    bit = (_mix(keys + _SALT[1])[:, None] >> shifts) & np.uint64(63)
    return block[:, None] * _BLOCK_WORDS + np.arange(_BLOCK_WORDS), np.uint64(1) << bit
