"""The one file here that Spark calls: each adapter makes a function for `mapInArrow` or `applyInPandas`.

The work is done by the plain functions next door; an adapter only takes columns apart and puts them together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from udfs import decode
from udfs.cells import assign
from udfs.ranking import rank_order
from udfs.similarity import match_earlier
from udfs.vectors import Matrix, pack, unpack

Batches = Iterable[pa.RecordBatch]
ArrowFunction = Callable[[Batches], Iterator[pa.RecordBatch]]
PandasFunction = Callable[[pd.DataFrame], pd.DataFrame]


class Centroids(Protocol):
    """A Spark broadcast of centroids."""

    @property
    def value(self) -> Matrix: ...


EMBEDDING_COLUMNS = "id string, source string, embedding binary, dim int, reason string"
MATCH_COLUMNS = "id string, cluster_id int, cosine_dist_to_cent double, max_id string, cosine_sim_score double"


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
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
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


def assign_clusters(broadcast: Centroids) -> ArrowFunction:
    """(embedding, any others) to the same with cluster_id and cosine_dist_to_cent."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        centroids = broadcast.value
        for batch in batches:
            cluster, distance = assign(unpack(batch.column("embedding"), centroids.shape[1]), centroids)
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield _record_batch(
                **columns,
                cluster_id=pa.array(cluster, pa.int32()),
                cosine_dist_to_cent=pa.array(distance, pa.float64()),
            )

    return run


def match_cluster(
    dim: int, min_score: float, which_to_keep: str, seed: int, rank_by: Sequence[tuple[str, bool]]
) -> PandasFunction:
    """The clips of one cluster to MATCH_COLUMNS; `rank_by` pairs a column with True for descending."""

    def run(clips: pd.DataFrame) -> pd.DataFrame:
        columns = [(clips[name], descending) for name, descending in rank_by]
        order = rank_order(clips["id"], clips["cosine_dist_to_cent"].to_numpy(), which_to_keep, seed, columns)
        ranked = clips.iloc[order]
        vectors = unpack(pa.array(ranked["embedding"], pa.large_binary()), dim)
        match, score = match_earlier(vectors, min_score)
        ids = ranked["id"].to_numpy()
        return pd.DataFrame(
            {
                "id": ids,
                "cluster_id": ranked["cluster_id"].to_numpy(),
                "cosine_dist_to_cent": ranked["cosine_dist_to_cent"].to_numpy(),
                "max_id": np.where(match >= 0, ids[match], np.array(None, object)),
                "cosine_sim_score": score,
            }
        )

    return run
