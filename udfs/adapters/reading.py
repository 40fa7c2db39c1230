"""Read: clip files and Parquet to packed embeddings, and the clips drawn for the sample."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from udfs import decode, reasons
from udfs.adapters.batches import ArrowFunction, Batches, Broadcast, columns_of, ddl, filled, record_batch
from udfs.keysets import EVERY_DRAW, draws
from udfs.parquet import FilePart, clip_columns, has_footer, pack_list_column, read_part, text_column
from udfs.ranking import seeded_hash
from udfs.units import run_starts
from udfs.vectors import Indices, pack_runs, squared_norms, unit_rows, unpack, unpack_as

_SEGMENTS = 256  # that draws are compared in

_EMBEDDING_TYPES = {
    "id": pa.string(),
    "source": pa.string(),
    "embedding": pa.binary(),
    "dim": pa.int32(),
    "reason": pa.string(),
}
_SCANNED_TYPES = {
    **_EMBEDDING_TYPES,
    "draw": pa.int64(),
    "clips": pa.int64(),  # of a batch that are of this kind
    "segment": pa.int32(),
    "draws": pa.binary(),
}
EMBEDDING_COLUMNS = ddl(_EMBEDDING_TYPES)
SCANNED_COLUMNS = ddl(_SCANNED_TYPES)


def decode_clips(batches: Batches) -> Iterator[pa.RecordBatch]:
    """(path, content) of clip files to EMBEDDING_COLUMNS."""
    for batch in batches:
        paths = batch.column("path").to_pylist()
        clips = [
            decode.decode_clip(path, content.as_py())
            for path, content in zip(paths, batch.column("content"), strict=True)
        ]
        embedding, dim, reason = clip_columns(clips)
        yield record_batch(
            id=pa.array([decode.clip_id(path) for path in paths], pa.string()),
            source=pa.array(paths, pa.string()),
            embedding=embedding,
            dim=dim,
            reason=reason,
        )


def pack_lists(batches: Batches) -> Iterator[pa.RecordBatch]:
    """(id, source, embedding as list<float|double>, any others) to EMBEDDING_COLUMNS and the others."""
    for batch in batches:
        columns = columns_of(batch)
        embedding, dim, reason = pack_list_column(columns.pop("embedding"))
        ids, are_text = text_column(columns.pop("id"))
        reason = pc.if_else(are_text, reason, reasons.BAD_ID)
        yield record_batch(
            id=ids,
            source=columns.pop("source"),
            embedding=embedding,
            dim=dim,
            reason=pc.if_else(ids.is_valid(), reason, reasons.NULL),
            **columns,
        )


def keep_unreadable(batches: Batches) -> Iterator[pa.RecordBatch]:
    """(path, content) of Parquet files to the paths of those that cannot be opened."""
    for batch in batches:
        bad = [not has_footer(content.as_py()) for content in batch.column("content")]
        yield record_batch(path=batch.column("path").filter(pa.array(bad, pa.bool_())))


def read_parquet(tasks: Broadcast[list[list[FilePart]]], id_column: str, embedding_column: str) -> ArrowFunction:
    """Numbers of tasks to EMBEDDING_COLUMNS of the local Parquet rows in them, without Spark's detour by rows."""

    def rows(part: FilePart) -> Iterator[pa.RecordBatch]:
        for ids, lists in read_part(part, id_column, embedding_column):
            source = pa.repeat(pa.scalar(part.uri, pa.string()), len(ids))
            yield record_batch(id=ids, source=source, embedding=lists)

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for part in tasks.value[number]:
                    yield from pack_lists(rows(part))

    return run


def scan(seed: int, limit: int) -> ArrowFunction:
    """EMBEDDING_COLUMNS and others to SCANNED_COLUMNS and the others.

    Whole are the rows drawn within the limit, all at the greatest one, and the rejected ones, those without their
    embedding. Of all rows of a batch there are counts, and the draws of usable ids by segment.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = columns_of(batch)
            fixed = {**_SCANNED_TYPES, **{name: c.type for name, c in columns.items() if name.startswith("rank_")}}
            draw = draws(columns["id"], seed)
            usable = columns["reason"].is_null().to_numpy(zero_copy_only=False)
            drawn = usable & (draw <= limit)
            whole = np.flatnonzero(drawn | ~usable)
            if limit < EVERY_DRAW:
                columns["embedding"] = columns["embedding"].take(pa.array(np.arange(len(batch)), mask=~drawn))
            columns["draw"] = pa.array(draw)
            yield filled({name: column.take(pa.array(whole)) for name, column in columns.items()}, fixed)
            yield filled(_counted({name: columns[name] for name in ("reason", "dim")}), fixed)
            segments, held = _by_segment(draw[usable])
            yield filled({"segment": segments, "draws": held}, fixed)

    return run


def tally(batches: Batches) -> Iterator[pa.RecordBatch]:
    """(reason, dim, clips, draws), all of some segments, to (reason, dim, clips, repeats).

    The counts added up, and in a last row how many of the draws have come before.
    """
    some = list(batches)
    if not some:
        return
    held = pa.Table.from_batches(some)
    counted = held.filter(held["clips"].is_valid()).group_by(["reason", "dim"]).aggregate([("clips", "sum")])
    types = {"reason": pa.string(), "dim": pa.int32(), "clips": pa.int64(), "repeats": pa.int64()}
    for batch in counted.rename_columns(["reason", "dim", "clips"]).to_batches():
        yield filled(columns_of(batch), types)
    parts = [unpack_as(part, np.dtype("<i8")) for part in held["draws"].drop_null().chunks]
    draw = np.concatenate([np.empty(0, np.int64), *parts])
    yield filled({"repeats": pa.array([len(draw) - len(np.unique(draw))], pa.int64())}, types)


def _counted(kinds: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """How many rows there are of each kind."""
    counted = pa.table(kinds).group_by(list(kinds)).aggregate([([], "count_all")])
    return {**{name: counted[name].combine_chunks() for name in kinds}, "clips": counted["count_all"].combine_chunks()}


def _by_segment(draw: Indices) -> tuple[pa.Array, pa.Array]:
    """Draws (n,) as the numbers of the segments they lie in, and packed values of those in each."""
    segment = draw % _SEGMENTS
    order = np.argsort(segment, kind="stable")
    starts = run_starts(segment[order][:, None])
    return pa.array(segment[order][starts], pa.int32()), pack_runs(draw[order], np.r_[starts, len(draw)])


def draw_clips(seed: int, limit: int) -> ArrowFunction:
    """(id, embedding) to those drawn within the limit, and `draw`."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            draw = draws(batch.column("id"), seed)
            some = batch.filter(pa.array(draw <= limit))
            yield record_batch(
                id=some.column("id"), embedding=some.column("embedding"), draw=pa.array(draw[draw <= limit])
            )

    return run


def random_ranks(seed: int) -> ArrowFunction:
    """(id) to (id, random_rank), as `rank_columns` ranks by for `random`."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column("id")
            yield record_batch(id=ids, random_rank=pa.array(seeded_hash(ids.to_pylist(), seed)))

    return run


def usable(dim: int) -> ArrowFunction:
    """EMBEDDING_COLUMNS and others to the id, embedding and others of the usable rows of one dimension."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = columns_of(batch)
            good = pc.and_(columns.pop("reason").is_null(), pc.fill_null(pc.equal(columns.pop("dim"), dim), False))
            columns.pop("source")
            rest = record_batch(**columns)
            yield rest if good.true_count == len(good) else rest.filter(good)

    return run


def unit_features(dim: int) -> ArrowFunction:
    """(embedding packed) to (features array<float>): the rows divided by their norms."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors = unpack(batch.column("embedding"), dim)
            unit = unit_rows(vectors, squared_norms(vectors))
            offsets = np.arange(len(unit) + 1, dtype=np.int32) * dim
            yield record_batch(features=pa.ListArray.from_arrays(pa.array(offsets), pa.array(unit.ravel())))

    return run
