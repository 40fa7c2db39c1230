"""Place and screen: homes, guests and sketches; the survivors of units, and sets of them."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from udfs.adapters.batches import UNIT_COLUMNS, ArrowFunction, Batches, Broadcast, record_batch, units
from udfs.cells import Cells
from udfs.keysets import BloomFilter, clip_keys, members
from udfs.screening import placement_type, survivors
from udfs.sketches import code_type, repeated_rows, sketch
from udfs.units import Flags, cut, run_starts
from udfs.vectors import (
    Doubles,
    Indices,
    Matrix,
    first_of_equal_rows,
    pack,
    squared_norms,
    unit_rows,
    unpack,
    unpack_as,
)

PLACEMENT_COLUMNS = (
    "id string, cluster_id int, cosine_dist_to_cent double, key bigint, guests array<int>, sketch binary, "
    "repeated boolean, copy boolean"
)
GATHERED_COLUMNS = f"{UNIT_COLUMNS}, placements binary"
SURVIVOR_COLUMNS = "key bigint, cell int, copy boolean, pairs bigint"


def place_clips(centroids: Broadcast[Matrix], basis: Broadcast[Doubles], eps: float | None) -> ArrowFunction:
    """(id, embedding) to PLACEMENT_COLUMNS; guests as for `Cells`, and no sketches from a basis without columns."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        cells, axes = Cells(centroids.value, eps), basis.value
        for batch in batches:
            vectors = unpack(batch.column("embedding"), axes.shape[0])
            x_sq = squared_norms(vectors)
            unit = unit_rows(vectors, x_sq)
            placement = cells.place(vectors, x_sq, unit)
            guests = np.bincount(placement.guest_rows, minlength=len(vectors))
            copy = first_of_equal_rows(vectors, x_sq) != np.arange(len(vectors))
            yield record_batch(
                id=batch.column("id"),
                cluster_id=pa.array(placement.home, pa.int32()),
                cosine_dist_to_cent=pa.array(placement.distance),
                key=pa.array(clip_keys(batch.column("id")).view(np.int64)),
                guests=pa.ListArray.from_arrays(
                    pa.array(np.r_[0, np.cumsum(guests)], pa.int32()), pa.array(placement.guest_cells, pa.int32())
                ),
                **_sketches(unit, axes),
                copy=pa.array(copy),  # bit-identical to an earlier one of the batch, and so not compared again
            )

    return run


def _sketches(unit: Matrix, axes: Doubles) -> dict[str, pa.Array]:
    """The columns sketch and repeated. Of equal sketches the first stands for all; all are repeated."""
    if axes.shape[1] == 0:
        return {"sketch": pa.nulls(len(unit), pa.binary()), "repeated": pa.repeat(pa.scalar(False), len(unit))}
    codes = sketch(unit, axes)
    first, repeated = repeated_rows(codes)
    packed = pc.if_else(pa.array(first), pack(codes).cast(pa.binary()), pa.scalar(None, pa.binary()))
    return {"sketch": packed, "repeated": pa.array(repeated)}


def gather_sketches(blocks: Broadcast[Indices], m: int) -> ArrowFunction:
    """(cluster_id, key, guests, sketch) of placements to GATHERED_COLUMNS: a batch's placements in a unit, packed."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            clip, cell, home = _placements(batch)
            keys = batch.column("key").to_numpy()
            part, a, b, second = cut(keys[clip], cell, blocks.value)
            order = np.lexsort((b, a, cell[part]))
            part, a, b = part[order], a[order], b[order]
            packed = np.empty(len(part), placement_type(m))
            packed["key"], packed["home"], packed["second"] = keys[clip[part]], home[part], second[order]
            packed["sketch"] = unpack_as(batch.column("sketch"), code_type(m))[clip[part]]
            unit = np.stack([cell[part], a, b], axis=1)
            starts = run_starts(unit)
            offsets = np.r_[starts, len(part)].astype(np.int64) * packed.itemsize
            yield record_batch(
                **{name: pa.array(unit[starts, n], pa.int32()) for n, name in enumerate(("cell", "a", "b"))},
                placements=pa.LargeBinaryArray.from_buffers(
                    pa.large_binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(packed)]
                ).cast(pa.binary()),
            )

    return run


def _placements(batch: pa.RecordBatch) -> tuple[Indices, Indices, Flags]:
    """Of each placement in (cluster_id, guests): the clip's number in the batch, the cell, and whether it is home."""
    guests = pc.list_value_length(batch.column("guests")).to_numpy()
    clip = np.arange(len(batch))
    cells = [batch.column("cluster_id").to_numpy(), batch.column("guests").flatten().to_numpy()]
    return (
        np.r_[clip, np.repeat(clip, guests)],
        np.concatenate(cells).astype(np.int64),
        np.r_[np.ones(len(clip), bool), np.zeros(int(guests.sum()), bool)],
    )


def screen_units(m: int, min_score: float) -> ArrowFunction:
    """GATHERED_COLUMNS, sorted by unit, to SURVIVOR_COLUMNS; a last row has only the count of `pairs`."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        pairs = 0
        for unit in units(batches):
            placed = unpack_as(unit.column("placements"), placement_type(m))
            second = placed["second"] if unit.column("a")[0] != unit.column("b")[0] else None
            found, compared = survivors(placed["sketch"], min_score, placed["home"], second)
            pairs += compared
            n = int(found.sum())
            yield record_batch(
                key=pa.array(placed["key"][found]),
                cell=pa.repeat(unit.column("cell")[0], n),
                copy=pa.repeat(pa.scalar(False), n),
                pairs=pa.nulls(n, pa.int64()),
            )
        nothing = {"key": pa.nulls(1, pa.int64()), "cell": pa.nulls(1, pa.int32()), "copy": pa.nulls(1, pa.bool_())}
        yield record_batch(**nothing, pairs=pa.array([pairs]))

    return run


def key_set_members(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Surviving placements (key, cell) to (segment, member): the keys that a set of them holds."""
    for batch in batches:
        held = members(batch.column("key").to_numpy(), batch.column("cell").to_numpy())
        segment = BloomFilter.segment_of(held).astype(np.int32)
        yield record_batch(segment=pa.array(segment), member=pa.array(held.view(np.int64)))


def filter_segments(total_bits: int) -> ArrowFunction:
    """(segment, member), all of some segments, to (segment, words): their parts of a Bloom filter."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        held = pa.Table.from_batches(list(batches), pa.schema({"segment": pa.int32(), "member": pa.int64()}))
        segments = held.column("segment").to_numpy()
        keys = held.column("member").to_numpy().view(np.uint64)
        for segment in np.unique(segments):
            words = BloomFilter.segment(keys[segments == segment], total_bits)
            yield record_batch(segment=pa.array([segment], pa.int32()), words=pa.array([words.tobytes()], pa.binary()))

    return run
