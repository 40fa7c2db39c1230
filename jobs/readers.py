"""Readers: how the embeddings at a source reach Python, and how they are taken apart there."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.errors import JobError
from jobs.listing import file_table, files_per_task, local_uris, name_filter
from jobs.options import Options
from jobs.sources import Source
from jobs.storage import escape_glob
from udfs import decode, parquet
from udfs.adapters.batches import ArrowFunction
from udfs.adapters.reading import decode_clips, pack_lists, read_parquet

_LEAST_TASK = 4 << 20  # bytes that are worth a task
_EMBEDDING_TYPES = "array<float> or array<double>"


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a source. `frame.mapInArrow(function)` gives EMBEDDING_COLUMNS, and rank_0, … for --rank-by."""

    files: DataFrame  # as Spark reads them
    frame: DataFrame
    function: ArrowFunction
    rank_kinds: Mapping[str, str]  # the types of rank_0, …
    settings: Mapping[str, int]  # Spark settings to read with
    local: Sequence[parquet.FilePart] = ()  # what Python reads by itself

    @property
    def bytes_past_spark(self) -> int:
        """Bytes that one pass reads without Spark's counting them."""
        return sum(part.stop - part.start for part in self.local)

    def outline(self, embedding_column: str) -> tuple[int, int]:
        """The number of rows of a table and the dimension of the first that has one, 0 if none has."""
        if not self.local:
            first = self.files.select(F.size(_column(embedding_column)).alias("dim")).filter("dim > 0").first()
            return self.files.count(), first.dim if first else 0
        try:
            return parquet.outline([part for part in self.local if part.start == 0], embedding_column)
        except ValueError as e:
            raise JobError(f"{e}; write it again or take it away") from None


def reader(spark: SparkSession, source: Source, options: Options, without: Collection[str] = ()) -> Reader:
    """The reader of a source, without some of its Parquet files, given by their paths.

    Raises JobError when a flag names a column that is not there or of the wrong type.
    """
    if source.format == "clips":
        return _clip_files(spark, source, options)
    return _parquet(spark, source, options, without)


def _clip_files(spark: SparkSession, source: Source, options: Options) -> Reader:
    if options.rank_by:
        raise JobError("--rank-by needs columns to rank by: clip files have none, Parquet may")
    files = file_table(spark, source, options)
    small = files.filter(F.col("length") <= decode.MAX_BYTES)
    return Reader(files, small.select("path", "content"), decode_clips, {}, files_per_task(options))


def _parquet(spark: SparkSession, source: Source, options: Options, without: Collection[str]) -> Reader:
    paths = [source.path]
    if without:
        paths = sorted({row.path for row in file_table(spark, source, options).select("path").collect()} - {*without})
    table = spark.read.options(**name_filter(source, options)).parquet(*map(escape_glob, paths))
    types = {field.name: field.dataType for field in table.schema}
    _check_column(types, "--id-column", options.id_column, (T.StringType, T.IntegralType), "text or whole numbers")
    _check_column(types, "--embedding-column", options.embedding_column, (T.ArrayType,), _EMBEDDING_TYPES)
    element = types[options.embedding_column].elementType  # type: ignore[attr-defined]
    if not isinstance(element, T.FloatType | T.DoubleType):
        raise JobError(
            f"--embedding-column {options.embedding_column}: its elements are {element.simpleString()}; "
            f"it must be {_EMBEDDING_TYPES}"
        )
    columns = [
        _column(options.id_column).cast("string").alias("id"),
        F.col("_metadata.file_path").alias("source"),
        _column(options.embedding_column).alias("embedding"),
    ]
    rank_kinds = {}
    for n, ranked in enumerate(options.rank_by):
        _check_column(types, "--rank-by", ranked.name, (T.AtomicType,), "a column that can be sorted")
        kind = types[ranked.name].simpleString()
        column = _column(ranked.name)
        if isinstance(types[ranked.name], T.IntegralType):
            kind = "decimal(20,0)"  # pandas has no whole numbers with nulls; decimals keep every digit
        elif isinstance(types[ranked.name], T.FractionalType) and not isinstance(types[ranked.name], T.DecimalType):
            column = F.when(~F.isnan(column), column)  # not a number: last, as null is
        columns.append(column.cast(kind).alias(f"rank_{n}"))
        rank_kinds[f"rank_{n}"] = kind

    # At most --files-per-partition files a task: each counts as at least its share of a task's bytes.
    jvm: Any = spark._jvm
    task_bytes = jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(
        spark.conf.get("spark.sql.files.maxPartitionBytes")
    )
    cost = task_bytes // options.files_per_partition
    uris = [] if options.rank_by else local_uris(spark, table)
    if uris:
        return _local_parquet(spark, options, table, uris, task_bytes, cost)
    settings = {"spark.sql.files.openCostInBytes": cost}
    return Reader(table, table.select(columns), pack_lists, rank_kinds, settings)


def _local_parquet(
    spark: SparkSession, options: Options, table: DataFrame, uris: list[str], task_bytes: int, cost: int
) -> Reader:
    """Parquet that Python reads past Spark, cut into tasks as Spark would."""
    paths = [(uri, unquote(urlsplit(uri).path)) for uri in sorted(uris)]
    files = [(uri, path, Path(path).stat().st_size) for uri, path in paths]
    even = sum(size for *_, size in files) // spark.sparkContext.defaultParallelism  # some for each core
    tasks = deal(files, min(task_bytes, max(even, _LEAST_TASK)), max(cost, 1))
    function = read_parquet(spark.sparkContext.broadcast(tasks), options.id_column, options.embedding_column)
    numbers = spark.range(0, len(tasks), 1, len(tasks))
    return Reader(table, numbers, function, {}, {}, [part for task in tasks for part in task])


def deal(files: Sequence[tuple[str, str, int]], task_bytes: int, least: int) -> list[list[parquet.FilePart]]:
    """Files (URI, path, size) cut into parts and dealt to tasks of about `task_bytes`.

    Each part counts for at least `least` bytes, so that a task gets no more than task_bytes / least of them.
    """
    tasks: list[list[parquet.FilePart]] = [[]]
    room = task_bytes
    for uri, path, size in files:
        for start in range(0, max(size, 1), task_bytes):
            part = parquet.FilePart(uri, path, start, min(start + task_bytes, size))
            weight = max(part.stop - part.start, least)
            if weight > room and tasks[-1]:
                tasks.append([])
                room = task_bytes
            tasks[-1].append(part)
            room -= weight
    return tasks


def _check_column(
    types: dict[str, T.DataType], flag: str, name: str, legal: tuple[type[T.DataType], ...], legal_text: str
) -> None:
    if name not in types:
        raise JobError(f"{flag} {name}: the input has no such column; it has {', '.join(types)}")
    if not isinstance(types[name], legal):
        raise JobError(f"{flag} {name} is {types[name].simpleString()}; it must be {legal_text}")


def _column(name: str) -> Column:
    """A column by its literal name, dots and backticks included."""
    return F.col("`{}`".format(name.replace("`", "``")))
