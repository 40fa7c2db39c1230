"""Read: clip files and Parquet to packed embeddings, and the clips drawn for the sample."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from udfs import decode
from udfs.adapters.batches import ArrowFunction, Batches, Broadcast, columns_of, record_batch
from udfs.keysets import EVERY_DRAW, draws
from udfs.parquet import FilePart, clip_columns, pack_list_column, read_part

EMBEDDING_COLUMNS = "id string, source string, embedding binary, dim int, reason string"


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
        ids = columns.pop("id")
        yield record_batch(
            id=ids,
            source=columns.pop("source"),
            embedding=embedding,
            dim=dim,
            reason=pc.if_else(ids.is_valid(), reason, decode.NULL),
            **columns,
        )


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


def keep_drawn(seed: int, limit: int) -> ArrowFunction:
    """EMBEDDING_COLUMNS and others to the same and `draw`.

    Below the greatest limit only the rows drawn within it keep all columns; rejected ones keep theirs but the
    embedding, and the others no more than their dimension.
    """

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = columns_of(batch)
            draw = draws(columns["id"], seed)
            if limit < EVERY_DRAW:
                row = np.arange(len(batch))
                drawn = draw <= limit
                named = drawn | columns["reason"].is_valid().to_numpy(zero_copy_only=False)
                columns["embedding"] = columns["embedding"].take(pa.array(row, mask=~drawn))
                for name in ("id", "source"):
                    columns[name] = columns[name].take(pa.array(row, mask=~named))
            rank = {name: columns.pop(name) for name in list(columns) if name.startswith("rank_")}
            yield record_batch(**columns, draw=pa.array(draw), **rank)

    return run


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
