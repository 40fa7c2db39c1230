"""The files of the input: which there are, whether they are still the same, and those that Spark passes over."""

import dataclasses
import os
from functools import reduce
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.errors import JobError
from jobs.options import Options
from jobs.session import settings
from jobs.sources import Source
from jobs.storage import Storage, escape_glob
from udfs import decode, reasons

_CLIPS = "*.{" + ",".join(suffix[1:] for suffix in decode.SUFFIXES) + "}"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of an input in numbers. digest: of all paths, sizes and times of modification."""

    files: int
    bytes: int
    largest: int  # bytes
    digest: str


def name_filter(source: Source, options: Options) -> dict[str, str]:
    """Spark's reader options for the files that are read: subfolders too, and by their names."""
    if source.format == "clips":
        return {"recursiveFileLookup": "true", "pathGlobFilter": _CLIPS}
    return {"recursiveFileLookup": "true"} | ({"pathGlobFilter": "*.parquet"} if options.input_format == "auto" else {})


def file_table(spark: SparkSession, source: Source, options: Options) -> DataFrame:
    """The files as rows: path, modificationTime, length, and content, which is read only where it is asked for.

    Those that cannot be read are left out; `overlooked` finds them.
    """
    reading = spark.read.format("binaryFile").options(**name_filter(source, options))
    return reading.options(ignoreCorruptFiles="true", ignoreMissingFiles="true").load(escape_glob(source.path))


def files_per_task(options: Options) -> dict[str, int]:
    """The Spark settings by which a task reads --files-per-partition of these files.

    Spark fills a task by the bytes of its files plus a cost for opening each. With a cost above all their bytes
    together, what counts is the number of files.
    """
    cost = min(2**40, 2**62 // options.files_per_partition)
    return {
        "spark.sql.files.openCostInBytes": cost,
        "spark.sql.files.maxPartitionBytes": cost * options.files_per_partition,
        "spark.sql.files.minPartitionNum": 1,
    }


def list_files(spark: SparkSession, storage: Storage, source: Source, options: Options) -> Listing:
    """Count and fingerprint the files. Raises JobError for a local folder that a link makes endless."""
    _unseen(storage, source)
    stamp = F.xxhash64("path", "length", "modificationTime").cast("decimal(20,0)")
    count = file_table(spark, source, options).agg(
        F.count("*").alias("files"),
        F.coalesce(F.sum("length"), F.lit(0)).alias("bytes"),
        F.coalesce(F.max("length"), F.lit(0)).alias("largest"),
        F.coalesce(F.sum(stamp), F.lit(0)).alias("digest"),
    )
    with settings(spark, files_per_task(options)):
        row = count.collect()[0]
    return Listing(row.files, row.bytes, row.largest, format(int(row.digest) % 2**96, "024x"))


def overlooked(
    spark: SparkSession, storage: Storage, source: Source, files: DataFrame, rows: DataFrame, scanned: int
) -> tuple[DataFrame | None, int]:
    """The clip files of which there is no row (source) among those scanned, and the number of all files.

    As id, source, reason. They are too large, could not be read, have names that Hadoop hides because they begin
    with `_` or `.`, or are links to nothing.
    """
    unseen = _unseen(storage, source)
    total = count_files(files) + len(unseen)
    if total == scanned:
        return None, total
    large = files.filter(F.col("length") > decode.MAX_BYTES).select(F.col("path").alias("source"))
    missing = every_path(spark, files).select(F.col("path").alias("source"))
    missing = missing.join(rows.select("source").unionByName(large), "source", "left_anti")
    found = [
        large.withColumn("reason", F.lit(reasons.TOO_LARGE)),
        missing.withColumn("reason", F.lit(reasons.UNREADABLE)),
        spark.createDataFrame(unseen, "source string, reason string"),
    ]
    return reduce(DataFrame.unionByName, found).select(_clip_id().alias("id"), "source", "reason"), total


def count_files(files: DataFrame) -> int:
    """The number of files of a `file_table`, with the empty ones, for which it has no row."""
    listed: Any = files._jdf.inputFiles()  # stays in the JVM: there may be millions
    return len(listed)


def every_path(spark: SparkSession, files: DataFrame) -> DataFrame:
    """The column `path` of all these files."""
    listed: Any = files._jdf.inputFiles()
    jvm, session = cast(Any, spark._jvm), cast(Any, spark._jsparkSession)
    uris = session.createDataset(
        jvm.scala.Predef.genericWrapArray(listed).toList(), jvm.org.apache.spark.sql.Encoders.STRING()
    )
    return DataFrame(uris, spark).select(plain_path("value").alias("path"))


def local_uris(spark: SparkSession, table: DataFrame) -> list[str]:
    """The URIs of a table's files where all are on local disks; none elsewhere, where only Hadoop reads them."""
    jvm: Any = spark._jvm
    frame: Any = table._jdf
    uris = jvm.org.apache.hadoop.util.StringUtils.join("\n", frame.inputFiles()).split("\n")  # one call for all
    return uris if all(urlsplit(uri).scheme == "file" for uri in uris) else []


def plain_path(uri: str) -> Column:
    """A column of URIs as the paths that `file_table` has."""
    return F.expr(f"regexp_replace(url_decode(replace({uri}, '+', '%2B')), '^file:///', 'file:/')")


def _clip_id() -> Column:
    """`decode.clip_id` of the column `source`."""
    name = F.substring_index("source", "/", -1)
    return F.left(name, F.length(name) - F.length(F.substring_index(name, ".", -1)) - 1)


def _unseen(storage: Storage, source: Source) -> list[tuple[str, str]]:
    """Path and reason of the clip files that no listing of Hadoop shows."""
    if storage.is_file(source.path):
        return []
    local = storage.local_path(source.path)
    if local:
        return [(f"file:{path}", reason) for path, reason in _walk(local, (os.path.realpath(local),), hidden=False)]
    paths = storage.glob(source.path, "{[_.]*,*/[_.]*}")
    clips = [path for path in paths if path.endswith(decode.SUFFIXES) and _is_hidden(path.rsplit("/", 1)[-1])]
    return [(path, reasons.HIDDEN_NAME) for path in clips]


def _walk(folder: str, above: tuple[str, ...], hidden: bool) -> list[tuple[str, str]]:
    """The same for a local folder, at any depth; above: it and the folders it lies in, links resolved.

    Raises JobError for a link to one of them, since Spark would follow it round and round.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            concealed = hidden or _is_hidden(entry.name)
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
                if real in above:
                    raise JobError(
                        f"--input-embeddings-path: {entry.path} is a link to {real}, a folder it lies in; remove it"
                    )
                found += _walk(entry.path, (*above, real), concealed)
            elif entry.name.endswith(decode.SUFFIXES):
                if concealed:
                    found.append((entry.path, reasons.HIDDEN_NAME))
                elif entry.is_symlink() and not Path(entry.path).exists():
                    found.append((entry.path, reasons.UNREADABLE))
    return found


def _is_hidden(name: str) -> bool:
    """The rule of Spark's file listing (HadoopFSUtils.shouldFilterOutPathName)."""
    return name[0] == "." or (
        name[0] == "_" and "=" not in name and not name.startswith(("_metadata", "_common_metadata"))
    )
