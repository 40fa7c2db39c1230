"""Place and screen: homes, guests and sketches; the survivors of units, and sets of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from udfs.adapters.batches import ArrowFunction, Batches, Broadcast, ddl, filled, gathered, record_batch, units
from udfs.adapters.gpu import Engine
from udfs.cells import Cells, Placement
from udfs.device import to_host
from udfs.keysets import BloomFilter, clip_keys, members
from udfs.screening import cell_type, placement_type, survivors, survivors_on_gpu
from udfs.sketches import Codes, sketch
from udfs.units import Borders, Flags, Unit, cut, ranges, run_starts
from udfs.vectors import (
    Doubles,
    Indices,
    Matrix,
    first_of_equal_rows,
    pack_runs,
    squared_norms,
    unit_rows,
    unpack_as,
)

# A row for each clip, and for each batch and cell one with what of the batch belongs to the cell.
_PLACEMENT_TYPES = {
    "id": pa.string(),
    "cluster_id": pa.int32(),
    "cosine_dist_to_cent": pa.float64(),
    **dict.fromkeys(("cell", "homes", "guests", "travelling"), pa.int32()),
    **dict.fromkeys(("placements", "near", "repeated"), pa.binary()),
}
PLACEMENT_COLUMNS = ddl(_PLACEMENT_TYPES)
_UNIT_TYPES = {
    **dict.fromkeys(("cell", "a", "b"), pa.int32()),
    **dict.fromkeys(("placements", "near", "repeated"), pa.binary()),
}
UNIT_OF_PLACEMENTS = ddl(_UNIT_TYPES)
SURVIVOR_COLUMNS = "key bigint, cell int, copy boolean, pairs bigint"

_REPEATED = np.dtype([("key", "<i8"), ("copy", "?")])


def place_clips(
    centroids: Broadcast[Matrix], basis: Broadcast[Doubles], eps: float | None, engine: Engine
) -> ArrowFunction:
    """(id, embedding) to PLACEMENT_COLUMNS; guests as for `Cells`, and no sketches from a basis without columns.

    Of bit-identical clips in a batch the first travels for all; all are repeated, the others are copies.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        engine.attach()
        cells, axes = Cells(engine.put(centroids.value), eps), engine.put(basis.value)
        for batch in batches:
            vectors = engine.vectors(batch.column("embedding"), axes.shape[0])
            x_sq = squared_norms(vectors)
            unit = unit_rows(vectors, x_sq)
            placement = cells.place(vectors, x_sq, unit, near=axes.shape[1] > 0).on_host()
            clips = {
                "id": batch.column("id"),
                "cluster_id": pa.array(placement.home, pa.int32()),
                "cosine_dist_to_cent": pa.array(placement.distance),
            }
            yield filled(clips, _PLACEMENT_TYPES)
            keys = clip_keys(batch.column("id")).view(np.int64)
            first = to_host(first_of_equal_rows(vectors, x_sq))
            codes = to_host(sketch(unit, axes)) if axes.shape[1] else None
            yield filled(_by_cell(keys, first, placement, codes, len(cells.centroids)), _PLACEMENT_TYPES)

    return run


def _by_cell(
    keys: Indices, first: Indices, placement: Placement, codes: Codes | None, cells: int
) -> dict[str, pa.Array]:
    """The columns of the cells that a batch has clips in."""
    n, home = len(keys), placement.home
    copy = first != np.arange(n)
    clip = np.r_[np.arange(n), placement.guest_rows]
    cell = np.r_[home, placement.guest_cells]
    order = np.argsort(cell, kind="stable")
    clip, cell, at_home = clip[order], cell[order], order < n
    starts = run_starts(cell[:, None])

    def count(flags: Flags) -> pa.Array:
        return pa.array(np.add.reduceat(flags.astype(np.int32), starts) if n else [], pa.int32())

    repeated = (copy | np.isin(np.arange(n), first[copy]))[clip]
    certain = np.empty(int(repeated.sum()), _REPEATED)
    certain["key"], certain["copy"] = keys[clip[repeated]], copy[clip[repeated]]
    columns = {
        "cell": pa.array(cell[starts], pa.int32()),
        "homes": count(at_home),
        "guests": count(~at_home),
        "travelling": count(~copy[clip]),
        "repeated": pack_runs(certain, _up_to(repeated, starts)),
    }
    if codes is None:
        return columns
    travels = ~copy[clip]
    ends, clip = _up_to(travels, starts), clip[travels]
    borders = np.bincount(placement.near_rows, minlength=n)
    packed = np.empty(len(clip), placement_type(codes.shape[1] - 1, cells))
    packed["key"], packed["origin"], packed["sketch"], packed["second"] = keys[clip], home[clip], codes[clip], False
    packed["near"] = np.where(at_home[travels], borders[clip], 0)
    counts = packed["near"].astype(np.int64)
    near = placement.near_cells[ranges((np.cumsum(borders) - borders)[clip], counts)].astype(cell_type(cells))
    return columns | {
        "placements": pack_runs(packed, ends),
        "near": pack_runs(near, np.r_[0, np.cumsum(counts)][ends]),
    }


def _up_to(flags: Flags, starts: Indices) -> Indices:
    """How many flags are set before each start, and in all."""
    counted: Indices = np.r_[0, np.cumsum(flags)]
    return counted[np.r_[starts, len(flags)]]


def cut_placements(blocks: Broadcast[Indices], m: int) -> ArrowFunction:
    """(cell, placements, near, repeated) to UNIT_OF_PLACEMENTS, in as many blocks as each cell has."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        kind = placement_type(m, len(blocks.value))
        for batch in batches:
            yield _cut(batch, blocks.value, kind)
            first = pa.array(np.zeros(len(batch), np.int32))
            repeated = {"cell": batch.column("cell"), "a": first, "b": first, "repeated": batch.column("repeated")}
            yield filled(repeated, _UNIT_TYPES)

    return run


def _cut(batch: pa.RecordBatch, blocks: Indices, kind: np.dtype[np.void]) -> pa.RecordBatch:
    """The placements of a batch by unit, with their borders."""
    placed = unpack_as(batch.column("placements"), kind)
    near = unpack_as(batch.column("near"), kind["near"])
    counts = placed["near"].astype(np.int64)
    rows = pc.binary_length(batch.column("placements")).to_numpy() // kind.itemsize
    cell = np.repeat(batch.column("cell").to_numpy().astype(np.int64), rows)
    part, a, b, second = cut(placed["key"], cell, blocks)
    order = np.lexsort((b, a, cell[part]))
    part = part[order]
    unit = np.stack([cell[part], a[order], b[order]], axis=1)
    packed = placed[part]
    packed["second"] = second[order]
    starts = run_starts(unit)
    ends = np.r_[starts, len(part)]
    moved = near[ranges((np.cumsum(counts) - counts)[part], counts[part])]
    numbers = {name: pa.array(unit[starts, n], pa.int32()) for n, name in enumerate(("cell", "a", "b"))}
    borders = pack_runs(moved, np.r_[0, np.cumsum(counts[part])][ends])
    return filled({**numbers, "placements": pack_runs(packed, ends), "near": borders}, _UNIT_TYPES)


def screen_units(m: int, cells: int, min_score: float, engine: Engine) -> ArrowFunction:
    """UNIT_OF_PLACEMENTS, sorted by unit, to SURVIVOR_COLUMNS; a last row has only the count of `pairs`."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        engine.attach()
        screen = survivors_on_gpu if engine.gpu else survivors
        kind, pairs = placement_type(m, cells), 0

        def placements(unit: pa.RecordBatch) -> int:
            return (pc.sum(pc.binary_length(unit.column("placements"))).as_py() or 0) // kind.itemsize

        for group in gathered(units(batches), engine.gathered_rows, placements):
            placed = [unpack_as(unit.column("placements").drop_null(), kind) for unit in group]
            compared = [_compared(unit, rows) for unit, rows in zip(group, placed, strict=True)]
            found, bounded = screen(np.concatenate([rows["sketch"] for rows in placed]), min_score, compared)
            pairs += bounded
            ends = np.cumsum([len(rows) for rows in placed])
            for unit, rows, some in zip(group, placed, np.split(found, ends[:-1]), strict=True):
                yield _surviving(unit, rows["key"][some])
        nothing = {"key": pa.nulls(1, pa.int64()), "cell": pa.nulls(1, pa.int32()), "copy": pa.nulls(1, pa.bool_())}
        yield record_batch(**nothing, pairs=pa.array([pairs]))

    return run


def _compared(unit: pa.RecordBatch, placed: NDArray[Any]) -> Unit:
    """What a unit compares of its placements."""
    origin = placed["origin"].astype(np.int64)
    near_rows = np.repeat(np.arange(len(placed)), placed["near"])
    near_cells = unpack_as(unit.column("near").drop_null(), placed.dtype["near"]).astype(np.int64)
    second = placed["second"] if unit.column("a")[0] != unit.column("b")[0] else None
    return Unit(origin == unit.column("cell")[0].as_py(), second, Borders(origin, near_rows, near_cells))


def _surviving(unit: pa.RecordBatch, keys: Indices) -> pa.RecordBatch:
    """SURVIVOR_COLUMNS of the placements found, and of those that survive in any case."""
    certain = unpack_as(unit.column("repeated").drop_null(), _REPEATED)
    both = np.r_[keys, certain["key"]]
    return record_batch(
        key=pa.array(both),
        cell=pa.repeat(unit.column("cell")[0], len(both)),
        copy=pa.array(np.r_[np.zeros(len(keys), bool), certain["copy"]]),
        pairs=pa.nulls(len(both), pa.int64()),
    )


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
