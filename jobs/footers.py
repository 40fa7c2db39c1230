"""The Parquet files that cannot be read at all: each is a row of rejected/, and no pass over the clips looks at it."""

import logging
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pyspark.sql import DataFrame, SparkSession

from jobs.errors import JobError
from jobs.listing import count_files, every_path, file_table, local_uris, name_filter, plain_path
from jobs.options import Options
from jobs.sources import Source
from jobs.storage import escape_glob
from udfs.adapters.reading import keep_unreadable
from udfs.parquet import has_footer

log = logging.getLogger(__name__)

_EMPTY_BYTES = 4 << 20  # a file without rows has no more, so it may be looked at whole


class Unreadable(NamedTuple):
    """A Parquet file without a footer that can be read, so that nobody knows how many clips it holds."""

    path: str
    bytes: int


def unreadable_files(spark: SparkSession, source: Source, options: Options) -> list[Unreadable]:
    """Those among the Parquet files of a source. Raises JobError when there is no other."""
    files = file_table(spark, source, options)
    uris = local_uris(spark, files)
    found = _by_python(uris) if uris else _by_spark(spark, source, options, files)
    if found:
        total = count_files(files)
        if len(found) == total:
            raise JobError(
                f"--input-embeddings-path {source.path}: none of its {total} files can be read as Parquet (the first "
                f"is {found[0].path}): write them again"
            )
        log.warning("%d of %d Parquet files cannot be read, the first is %s", len(found), total, found[0].path)
    return found


def _by_python(uris: list[str]) -> list[Unreadable]:
    paths = sorted(unquote(urlsplit(uri).path) for uri in uris)
    return [Unreadable(f"file:{path}", Path(path).stat().st_size) for path in paths if not has_footer(path)]


def _by_spark(spark: SparkSession, source: Source, options: Options, files: DataFrame) -> list[Unreadable]:
    """The same on other storage: Spark passes over what it cannot read, and over files without rows."""
    reading = spark.read.schema("nothing string").options(**name_filter(source, options), ignoreCorruptFiles="true")
    table = reading.parquet(escape_glob(source.path))
    with_rows = table.select(plain_path("_metadata.file_path").alias("path")).distinct()
    others = every_path(spark, files).join(with_rows, "path", "left_anti")
    sizes = files.select("path", "length")
    found = others.join(sizes, "path", "left").fillna(0, "length").orderBy("path").collect()
    small = [row.path for row in found if 0 < row.length <= _EMPTY_BYTES]
    unreadable = {row.path for row in found} - set(small)
    if small:
        contents = spark.read.format("binaryFile").load([escape_glob(path) for path in small])
        checked = contents.select("path", "content").mapInArrow(keep_unreadable, "path string")
        unreadable |= {row.path for row in checked.collect()}
    return [Unreadable(row.path, row.length) for row in found if row.path in unreadable]
