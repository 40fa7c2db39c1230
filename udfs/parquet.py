"""Local Parquet files, read by Arrow past Spark, and list columns to packed embeddings."""

import dataclasses
import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from udfs import decode, reasons
from udfs.vectors import Matrix, pack

_READ_ROWS = 16_384
_READ_VALUES = 8 << 20  # of embeddings in a batch

# What PyArrow raises on a damaged file, unless the machine is short of something; other errors are not the file's.
_DAMAGED = (OSError, ValueError, pa.ArrowNotImplementedError)
_SHORTAGES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)


@dataclasses.dataclass(frozen=True)
class FilePart:
    """A part of a local Parquet file: the row groups whose middle lies in these bytes."""

    uri: str
    path: str
    start: int
    stop: int


def read_part(part: FilePart, id_column: str, embedding_column: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """The ids, as text, and the embeddings, as lists, in batches of a part; null where the file lacks the column.

    Raises ValueError, which names the file, when it cannot be read.
    """
    with _opened(part.uri, part.path) as file:
        groups = [(n, _middle(file.metadata.row_group(n))) for n in range(file.num_row_groups)]
        mine = [n for n, middle in groups if part.start <= middle < part.stop]
        there = [name for name in (id_column, embedding_column) if name in file.schema_arrow.names]
        for group in mine:
            rows = _batch_rows(file.metadata.row_group(group), embedding_column)
            for batch in file.iter_batches(rows, [group], there, use_threads=False):
                ids, lists = (
                    batch.column(name) if name in there else pa.nulls(len(batch), kind)
                    for name, kind in ((id_column, pa.string()), (embedding_column, pa.list_(pa.float32())))
                )
                yield ids.cast(pa.string()), _plain(lists)


def has_footer(file: str | bytes) -> bool:
    """Whether a Parquet file, given by its local path or its bytes, can be opened; its rows are not looked at.

    Raises OSError or MemoryError when it is the machine that is short of something.
    """
    try:
        with _opened("the file", file if isinstance(file, str) else pa.BufferReader(file)):
            return True
    except ValueError:
        return False


def outline(files: Iterable[FilePart], embedding_column: str) -> tuple[int, int]:
    """The number of rows of these files, whole, and the dimension of the first embedding that has one, else 0.

    Raises ValueError, which names the file, when one cannot be read.
    """
    rows = dim = 0
    for part in files:
        with _opened(part.uri, part.path) as file:
            rows += file.metadata.num_rows
            if not dim:
                dim = _first_dim(file, embedding_column)
    return rows, dim


def _first_dim(file: pq.ParquetFile, embedding_column: str) -> int:
    if embedding_column not in file.schema_arrow.names or file.num_row_groups == 0:
        return 0
    rows = min(1000, _batch_rows(file.metadata.row_group(0), embedding_column))
    first = next(file.iter_batches(rows, columns=[embedding_column], use_threads=False), None)
    return 0 if first is None else pc.max(pc.list_value_length(_plain(first.column(0)))).as_py() or 0


def _batch_rows(group: pq.RowGroupMetaData, embedding_column: str) -> int:
    """The rows of a batch, so that their embeddings fit _READ_VALUES.

    Raises ValueError where the embeddings are longer than any that are taken: a file of a few kilobytes may hold
    lists of a billion equal values.
    """
    columns = [group.column(n) for n in range(group.num_columns)]
    values = max((c.num_values for c in columns if c.path_in_schema.startswith(f"{embedding_column}.")), default=0)
    length = values // max(group.num_rows, 1)
    if length > decode.MAX_DIM:
        raise ValueError(f"its lists in {embedding_column} hold {length} values, more than the {decode.MAX_DIM} taken")
    return int(max(1, min(_READ_ROWS, _READ_VALUES // max(length, 1))))


@contextmanager
def _opened(name: str, source: str | pa.NativeFile) -> Iterator[pq.ParquetFile]:
    """A file to read in a block. Raises ValueError, which names it, when it is damaged, in the block as well."""
    try:
        with pq.ParquetFile(source) as file:
            yield file
    except _DAMAGED as e:
        if isinstance(e, OSError) and e.errno in _SHORTAGES:
            raise
        raise ValueError(f"{name} cannot be read as Parquet: {(str(e) or repr(e)).splitlines()[0]}") from e


def _plain(column: pa.Array) -> pa.Array:
    """The lists below an Arrow extension type such as a tensor of fixed shape."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _middle(group: pq.RowGroupMetaData) -> int:
    columns = [group.column(n) for n in range(group.num_columns)]
    starts = [c.dictionary_page_offset or c.data_page_offset for c in columns]
    return int(min(starts) + sum(c.total_compressed_size for c in columns) // 2)


def text_column(ids: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Ids with what is not UTF-8 in them replaced, and whether each was text (true for null)."""
    try:
        ids.validate(full=True)
        return ids, pa.repeat(pa.scalar(True), len(ids))
    except pa.ArrowInvalid:
        raw = [value.as_buffer().to_pybytes() if value.is_valid else None for value in ids]
        text = [value and value.decode(errors="replace") for value in raw]
        same = [not value or value == str(shown).encode() for value, shown in zip(raw, text, strict=True)]
        return pa.array(text, pa.string()), pa.array(same)


def pack_list_column(lists: pa.ListArray) -> tuple[pa.Array, pa.Array, pa.Array]:
    """A list<float|double> column of n embeddings to (packed binary, dim int32, reason string), n each."""
    matrix = _as_clean_matrix(lists)
    if matrix is not None:
        n, dim = matrix.shape
        return pack(matrix).cast(pa.binary()), pa.array([dim] * n, pa.int32()), pa.nulls(n, pa.string())
    return clip_columns([_pack_list(value) for value in lists])


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
        return decode.Decoded(None, None, reasons.NULL)
    return decode.pack_vector(value.values.to_numpy(zero_copy_only=False))


def clip_columns(clips: Sequence[decode.Decoded]) -> tuple[pa.Array, pa.Array, pa.Array]:
    return (
        pa.array([clip.embedding for clip in clips], pa.binary()),
        pa.array([clip.dim for clip in clips], pa.int32()),
        pa.array([clip.reason for clip in clips], pa.string()),
    )
