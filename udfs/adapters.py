"""The one file here that Spark calls: each adapter makes a function for `mapInArrow`.

The work is done by the plain functions next door; an adapter only takes columns apart and puts them together.
"""

import dataclasses
import sys
import zipimport
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from udfs import decode
from udfs.cells import Cells
from udfs.keysets import BloomFilter, Keys, KeySet, clip_keys, draws, members, placement_keys
from udfs.ranking import RankColumn, Values, rank_order, seeded_hash
from udfs.screening import placement_type, survivors
from udfs.similarity import match_earlier
from udfs.sketches import repeated_rows, sketch, unpack_codes
from udfs.units import Flags, cut
from udfs.vectors import Doubles, Indices, Matrix, first_of_equal_rows, pack, squared_norms, unit_rows, unpack

Batches = Iterable[pa.RecordBatch]
ArrowFunction = Callable[[Batches], Iterator[pa.RecordBatch]]


T_co = TypeVar("T_co", covariant=True)


class Broadcast(Protocol[T_co]):
    """A Spark broadcast."""

    @property
    def value(self) -> T_co: ...


EMBEDDING_COLUMNS = "id string, source string, embedding binary, dim int, reason string"
PLACEMENT_COLUMNS = (
    "id string, cluster_id int, cosine_dist_to_cent double, key bigint, guests array<int>, sketch binary, "
    "repeated boolean, copy boolean"
)
UNIT_COLUMNS = "cell int, a int, b int"
GATHERED_COLUMNS = f"{UNIT_COLUMNS}, placements binary"
SURVIVOR_COLUMNS = "key bigint, cell int, copy boolean, pairs bigint"

_READ_ROWS = 16_384
_FOLLOWER_CELLS = 256  # spread over so many groups, which need not meet anyone


def decode_clips(batches: Batches) -> Iterator[pa.RecordBatch]:
    """(path, content) of clip files to EMBEDDING_COLUMNS."""
    for batch in batches:
        paths = batch.column("path").to_pylist()
        clips = [
            decode.decode_clip(path, content.as_py())
            for path, content in zip(paths, batch.column("content"), strict=True)
        ]
        embedding, dim, reason = _clip_columns(clips)
        yield _record_batch(
            id=pa.array([decode.clip_id(path) for path in paths], pa.string()),
            source=pa.array(paths, pa.string()),
            embedding=embedding,
            dim=dim,
            reason=reason,
        )


def pack_lists(batches: Batches) -> Iterator[pa.RecordBatch]:
    """(id, source, embedding as list<float|double>, any others) to EMBEDDING_COLUMNS and the others."""
    for batch in batches:
        columns = _columns(batch)
        embedding, dim, reason = pack_list_column(columns.pop("embedding"))
        ids = columns.pop("id")
        yield _record_batch(
            id=ids,
            source=columns.pop("source"),
            embedding=embedding,
            dim=dim,
            reason=pc.if_else(ids.is_valid(), reason, decode.NULL),
            **columns,
        )


def pack_list_column(lists: pa.ListArray) -> tuple[pa.Array, pa.Array, pa.Array]:
    """A list<float|double> column of n embeddings to (packed binary, dim int32, reason string), n each."""
    matrix = _as_clean_matrix(lists)
    if matrix is not None:
        n, dim = matrix.shape
        return pack(matrix).cast(pa.binary()), pa.array([dim] * n, pa.int32()), pa.nulls(n, pa.string())
    return _clip_columns([_pack_list(value) for value in lists])


def _as_clean_matrix(lists: pa.ListArray) -> Matrix | None:
    """(n, d) float32 when every list is a usable vector of one dimension, which is nearly always."""
    values = lists.flatten()
    lengths = pc.list_value_length(lists).unique().to_pylist()
    if len(lengths) != 1 or not lengths[0] or values.null_count:
        return None
    with np.errstate(over="ignore"):
        matrix = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, lengths[0])
    usable = bool(np.isfinite(matrix).all() and matrix.any(axis=1).all())
    return matrix if usable else None


def _pack_list(value: pa.ListScalar) -> decode.Decoded:
    if not value.is_valid or value.values.null_count:
        return decode.Decoded(None, None, decode.NULL)
    return decode.pack_vector(value.values.to_numpy(zero_copy_only=False))


def _clip_columns(clips: Sequence[decode.Decoded]) -> tuple[pa.Array, pa.Array, pa.Array]:
    return (
        pa.array([clip.embedding for clip in clips], pa.binary()),
        pa.array([clip.dim for clip in clips], pa.int32()),
        pa.array([clip.reason for clip in clips], pa.string()),
    )


def _record_batch(**columns: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


@dataclasses.dataclass(frozen=True)
class FilePart:
    """A part of a local Parquet file: the row groups whose middle lies in these bytes."""

    uri: str
    path: str
    start: int
    stop: int


def read_parquet(tasks: Broadcast[list[list[FilePart]]], id_column: str, embedding_column: str) -> ArrowFunction:
    """Numbers of tasks to EMBEDDING_COLUMNS of the Parquet rows in them, read without Spark's detour by rows."""

    def rows(part: FilePart) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(part.path) as file:
            mine = [
                g for g in range(file.num_row_groups) if part.start <= _middle(file.metadata.row_group(g)) < part.stop
            ]
            for batch in file.iter_batches(_READ_ROWS, mine, [id_column, embedding_column], use_threads=False):
                yield _record_batch(
                    id=batch.column(id_column).cast(pa.string()),
                    source=pa.repeat(pa.scalar(part.uri, pa.string()), len(batch)),
                    embedding=batch.column(embedding_column),
                )

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for part in tasks.value[number]:
                    yield from pack_lists(rows(part))

    return run


def parquet_outline(paths: Iterable[str], embedding_column: str) -> tuple[int, int]:
    """The number of rows of local Parquet files, and the dimension of the first embedding that has one, else 0."""
    rows = dim = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            rows += file.metadata.num_rows
            if not dim:
                first = next(file.iter_batches(1000, columns=[embedding_column], use_threads=False), None)
                dim = 0 if first is None else pc.max(pc.list_value_length(first.column(0))).as_py() or 0
    return rows, dim


def _middle(group: pq.RowGroupMetaData) -> int:
    columns = [group.column(n) for n in range(group.num_columns)]
    starts = [c.dictionary_page_offset or c.data_page_offset for c in columns]
    return int(min(starts) + sum(c.total_compressed_size for c in columns) // 2)


def task(*functions: ArrowFunction) -> ArrowFunction:
    """What `mapInArrow` is given: one function after the other, batch by batch."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for function in functions:
            batches = function(batches)
        yield from batches
        _forget_archives()

    return run


def _forget_archives() -> None:
    """Drop the import system's readers of zip archives; the next import of something new makes them again.

    Before each task a PySpark worker calls `importlib.invalidate_caches`, and such a reader then reads the whole
    directory of its archive again: 0.2 s a task for pyspark.zip alone.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]


def keep_drawn(seed: int, limit: int) -> ArrowFunction:
    """EMBEDDING_COLUMNS and others to the same and `draw`.

    Below the greatest limit only the rows drawn within it keep all columns; rejected ones keep theirs but the
    embedding, and the others no more than their dimension.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = _columns(batch)
            draw = draws(columns["id"], seed)
            if limit < 2**63 - 1:
                row = np.arange(len(batch))
                drawn = draw <= limit
                named = drawn | columns["reason"].is_valid().to_numpy(zero_copy_only=False)
                columns["embedding"] = columns["embedding"].take(pa.array(row, mask=~drawn))
                for name in ("id", "source"):
                    columns[name] = columns[name].take(pa.array(row, mask=~named))
            rank = {name: columns.pop(name) for name in list(columns) if name.startswith("rank_")}
            yield _record_batch(**columns, draw=pa.array(draw), **rank)

    return run


def draw_clips(seed: int, limit: int) -> ArrowFunction:
    """(id, embedding) to those drawn within the limit, and `draw`."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            draw = draws(batch.column("id"), seed)
            some = batch.filter(pa.array(draw <= limit))
            yield _record_batch(
                id=some.column("id"), embedding=some.column("embedding"), draw=pa.array(draw[draw <= limit])
            )

    return run


def usable(dim: int) -> ArrowFunction:
    """EMBEDDING_COLUMNS and others to the id, embedding and others of the usable rows of one dimension."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = _columns(batch)
            good = pc.and_(columns.pop("reason").is_null(), pc.fill_null(pc.equal(columns.pop("dim"), dim), False))
            columns.pop("source")
            rest = _record_batch(**columns)
            yield rest if good.true_count == len(good) else rest.filter(good)

    return run


def place_clips(cells: Broadcast[Matrix], basis: Broadcast[Doubles], eps: float | None) -> ArrowFunction:
    """(id, embedding) to PLACEMENT_COLUMNS; guests as for `Cells`, and no sketches from a basis without columns."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        where, axes = Cells(cells.value, eps), basis.value
        for batch in batches:
            vectors = unpack(batch.column("embedding"), axes.shape[0])
            x_sq = squared_norms(vectors)
            unit = unit_rows(vectors, x_sq)
            placement = where.place(vectors, x_sq, unit)
            guests = np.bincount(placement.guest_rows, minlength=len(vectors))
            codes = sketch(unit, axes)
            first, repeated = repeated_rows(codes)
            copy = first_of_equal_rows(vectors, x_sq) != np.arange(len(vectors))
            yield _record_batch(
                id=batch.column("id"),
                cluster_id=pa.array(placement.home, pa.int32()),
                cosine_dist_to_cent=pa.array(placement.distance),
                key=pa.array(clip_keys(batch.column("id")).view(np.int64)),
                guests=pa.ListArray.from_arrays(
                    pa.array(np.r_[0, np.cumsum(guests)], pa.int32()), pa.array(placement.guest_cells, pa.int32())
                ),
                # Of equal sketches the first stands for all; that each has an equal one is known already.
                sketch=pc.if_else(pa.array(first), pack(codes).cast(pa.binary()), pa.scalar(None, pa.binary())),
                repeated=pa.array(repeated),
                copy=pa.array(copy),  # bit-identical to an earlier one of the batch, and so not compared again
            )

    return run


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
            packed["sketch"] = unpack_codes(batch.column("sketch"), m + 1)[clip[part]]
            unit = np.stack([cell[part], a, b], axis=1)
            starts = np.flatnonzero(np.r_[True, np.any(unit[1:] != unit[:-1], axis=1)][: len(unit)])
            offsets = np.r_[starts, len(part)].astype(np.int64) * packed.itemsize
            yield _record_batch(
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
        for unit in _units(batches):
            placed = _unpack_records(unit.column("placements"), placement_type(m))
            second = placed["second"] if unit.column("a")[0] != unit.column("b")[0] else None
            found, compared = survivors(placed["sketch"], min_score, placed["home"], second)
            pairs += compared
            n = int(found.sum())
            yield _record_batch(
                key=pa.array(placed["key"][found]),
                cell=pa.repeat(unit.column("cell")[0], n),
                copy=pa.repeat(pa.scalar(False), n),
                pairs=pa.nulls(n, pa.int64()),
            )
        nothing = {"key": pa.nulls(1, pa.int64()), "cell": pa.nulls(1, pa.int32()), "copy": pa.nulls(1, pa.bool_())}
        yield _record_batch(**nothing, pairs=pa.array([pairs]))

    return run


def _unpack_records(packed: pa.Array, dtype: np.dtype[np.void]) -> np.ndarray[Any, np.dtype[np.void]]:
    """All records of this type in a column of non-null binary values."""
    packed = packed.cast(pa.large_binary())
    offsets = np.frombuffer(packed.buffers()[1], np.int64, len(packed) + 1, packed.offset * 8)
    count = int(offsets[-1] - offsets[0]) // dtype.itemsize
    return np.frombuffer(packed.buffers()[2] or b"", dtype, count, int(offsets[0]))


def send_clips(
    cells: Broadcast[Matrix],
    eps: float | None,
    keyset: Broadcast[KeySet] | None,
    rank: Sequence[RankColumn],
    seed: int,
    blocks: Broadcast[Indices],
) -> ArrowFunction:
    """(id, embedding, --rank-by columns) to (UNIT_COLUMNS, home, second, leader_id, embedding, columns of rank): one
    row for each unit that a clip is to be matched in.

    Only placements in the key set are sent, or all of them where that is None. Of a batch's bit-identical
    clips the earliest in rank leads; the others follow it without embedding, to numbers below zero.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        where = Cells(cells.value, eps)
        wanted = keyset.value if keyset else None
        for batch in batches:
            keys = clip_keys(batch.column("id"))
            if wanted:
                some = wanted.contains(keys)
                batch, keys = batch.filter(pa.array(some)), keys[some]
            if len(batch):
                yield _sent(batch, keys, where, wanted, rank, seed, blocks.value)

    return run


def _sent(
    batch: pa.RecordBatch,
    keys: Keys,
    where: Cells,
    wanted: KeySet | None,
    rank: Sequence[RankColumn],
    seed: int,
    blocks: Indices,
) -> pa.RecordBatch:
    vectors = unpack(batch.column("embedding"), where.centroids.shape[1])
    x_sq = squared_norms(vectors)
    placement = where.place(vectors, x_sq)
    columns = {**_columns(batch), "cosine_dist_to_cent": pa.array(placement.distance)}
    if any(column.name == "random_rank" for column in rank):
        columns["random_rank"] = pa.array(seeded_hash(batch.column("id").to_pylist(), seed))
    order = _rank_order(columns, rank)
    leader = np.empty_like(order)
    leader[order] = order[first_of_equal_rows(vectors[order], x_sq[order])]
    leads = leader == np.arange(len(leader))

    rows = np.r_[np.arange(len(keys)), placement.guest_rows]
    cell = np.r_[placement.home, placement.guest_cells]
    home = np.arange(len(rows)) < len(keys)
    sent = leads[rows]
    if wanted is not None:
        sent &= wanted.contains(placement_keys(keys[rows], cell))
    followers = np.flatnonzero(~leads)
    spread = -1 - (keys[followers] % np.uint64(_FOLLOWER_CELLS)).astype(np.int64)
    rows, cell = np.r_[rows[sent], followers], np.r_[cell[sent], spread]
    home = np.r_[home[sent], np.ones(len(followers), bool)]
    part, first_block, second_block, second = cut(keys[rows].view(np.int64), cell, blocks)
    rows = rows[part]

    follows = ~leads[rows]
    embedding = columns.pop("embedding")
    return _record_batch(
        cell=pa.array(cell[part], pa.int32()),
        a=pa.array(first_block, pa.int32()),
        b=pa.array(second_block, pa.int32()),
        home=pa.array(home[part]),
        second=pa.array(second),
        leader_id=columns["id"].take(pa.array(leader[rows], mask=~follows)),
        embedding=embedding.take(pa.array(rows, mask=follows)),
        **{column.name: columns[column.name].take(pa.array(rows)) for column in rank},
    )


def match_units(basis: Broadcast[Doubles], min_score: float, rank: Sequence[RankColumn]) -> ArrowFunction:
    """(UNIT_COLUMNS, home, second, leader_id, embedding, columns of rank), sorted by unit, to partial matches.

    Those have id, max_id, cosine_sim_score and max_<name> for each column of rank. A follower has its leader_id
    instead; the last row of a task holds nothing but its counts, `pairs` and `scored`.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        axes, counts = basis.value, {"pairs": 0, "scored": 0}
        types: dict[str, pa.DataType] = {}
        for unit in _units(batches):
            types = types or {f"max_{column.name}": unit.column(column.name).type for column in rank}
            if unit.column("cell")[0].as_py() < 0:
                yield _partials(types, id=unit.column("id"), leader_id=unit.column("leader_id"))
                continue
            ranked = unit.take(pa.array(_rank_order(_columns(unit), rank)))
            vectors = unpack(ranked.column("embedding"), axes.shape[0])
            match, score, work = match_earlier(vectors, min_score, axes, *_home_and_second(ranked))
            counts = {name: count + work[name] for name, count in counts.items()}
            later = np.flatnonzero(match >= 0)
            best = ranked.take(pa.array(match[later]))
            yield _partials(
                types,
                id=ranked.column("id").take(pa.array(later)),
                cosine_sim_score=pa.array(score[later]),
                **{f"max_{column.name}": best.column(column.name) for column in rank},
            )
        if types:
            yield _partials(types, **{name: pa.array([count], pa.int64()) for name, count in counts.items()})

    return run


def key_set_members(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Surviving placements (key, cell) to (segment, member): the keys that a set of them holds."""
    for batch in batches:
        held = members(batch.column("key").to_numpy(), batch.column("cell").to_numpy())
        segment = BloomFilter.segment_of(held).astype(np.int32)
        yield _record_batch(segment=pa.array(segment), member=pa.array(held.view(np.int64)))


def filter_segments(total_bits: int) -> ArrowFunction:
    """(segment, member), all of some segments, to (segment, words): their parts of a Bloom filter."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        held = pa.Table.from_batches(list(batches), pa.schema({"segment": pa.int32(), "member": pa.int64()}))
        segments = held.column("segment").to_numpy()
        keys = held.column("member").to_numpy().view(np.uint64)
        for segment in np.unique(segments):
            words = BloomFilter.segment(keys[segments == segment], total_bits)
            yield _record_batch(segment=pa.array([segment], pa.int32()), words=pa.array([words.tobytes()], pa.binary()))

    return run


def _partials(types: dict[str, pa.DataType], **columns: pa.Array) -> pa.RecordBatch:
    """PARTIAL_COLUMNS and those of `types`, null where not given."""
    fixed = {"id": pa.string(), "leader_id": pa.string(), "cosine_sim_score": pa.float64()}
    n = len(next(iter(columns.values())))
    wanted = {**fixed, **types, "pairs": pa.int64(), "scored": pa.int64()}
    given = {name: columns[name].cast(kind) if name in columns else pa.nulls(n, kind) for name, kind in wanted.items()}
    return _record_batch(**given)


def _units(batches: Batches) -> Iterator[pa.RecordBatch]:
    """The rows of one unit after the other, from rows sorted by unit."""
    held: list[pa.RecordBatch] = []
    unit: tuple[int, ...] = ()
    for batch in batches:
        keys = np.stack([batch.column(name).to_numpy() for name in ("cell", "a", "b")], axis=1)
        starts = np.flatnonzero(np.r_[True, np.any(keys[1:] != keys[:-1], axis=1)][: len(keys)])
        for start, stop in zip(starts, np.r_[starts[1:], len(keys)], strict=True):
            if held and tuple(keys[start]) != unit:
                yield _joined(held)
                held = []
            unit = tuple(keys[start])
            held.append(batch.slice(start, stop - start))
    if held:
        yield _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    # A plain binary column ends at 2 GiB, where joining it would leave several chunks.
    fields = [f.with_type(pa.large_binary()) if pa.types.is_binary(f.type) else f for f in batches[0].schema]
    (joined,) = pa.Table.from_batches(batches).cast(pa.schema(fields)).combine_chunks().to_batches()
    return joined


def _home_and_second(unit: pa.RecordBatch) -> tuple[Flags, Flags | None]:
    """What `sweeps` asks of a unit."""
    home, second = (unit.column(name).to_numpy(zero_copy_only=False) for name in ("home", "second"))
    return home, second if unit.column("a")[0] != unit.column("b")[0] else None


def _rank_order(columns: Mapping[str, pa.Array], rank: Sequence[RankColumn]) -> Indices:
    def values(name: str) -> Values:
        column = columns[name]
        return column.to_numpy() if name == "cosine_dist_to_cent" else column.to_pandas()

    return rank_order([(values(column.name), column.descending) for column in rank])


def _columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return dict(zip(batch.schema.names, batch.columns, strict=True))
