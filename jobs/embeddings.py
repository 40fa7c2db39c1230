"""Load: pack the embeddings into one table, and set the unusable ones aside in rejected/."""

from typing import Any
from urllib.parse import unquote

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.errors import JobError
from jobs.options import Options
from jobs.session import settings
from jobs.sources import Source
from jobs.stages import Record, Run
from jobs.storage import Storage, escape_glob
from udfs import adapters, decode

_EMBEDDING_TYPES = "array<float> or array<double>"
_REJECTED_COLUMNS = "id string, source string, reason string"


def load(spark: SparkSession, options: Options, run: Run, source: Source) -> Record:
    """Write the packed embeddings and rejected/; returns the counts and the dimension."""
    read = {"clips": _read_clips, "parquet": _read_parquet}[source.format]
    files, packed, reading = read(spark, source, options)
    with settings(spark, reading):
        # A row's number is only its name in the written table: nothing is ordered by it.
        numbered = packed.withColumn("row", F.monotonically_increasing_id())
        numbered.write.mode("overwrite").parquet(run.work("embeddings"))

    rows = run.storage.table(run.work("embeddings"))
    overlooked = _overlooked_clips(spark, run.storage, source, files, rows) if source.format == "clips" else []
    dim = _most_common_dimension(rows)
    other_dim = F.col("dim") != F.lit(dim)
    rows = rows.withColumn("reason", F.when(other_dim, decode.WRONG_DIMENSION).otherwise(F.col("reason")))
    _duplicate_ids(rows).write.mode("overwrite").parquet(run.work("duplicate_ids"))
    duplicates = run.storage.table(run.work("duplicate_ids"))
    rejected = rows.filter("reason is not null").select("id", "source", "reason")
    rejected = rejected.unionByName(duplicates.select("id", "source", "reason"))
    rejected = rejected.unionByName(spark.createDataFrame(overlooked, _REJECTED_COLUMNS))
    rejected.hint("rebalance").write.mode("overwrite").parquet(run.path("rejected"))

    by_reason = run.storage.table(run.path("rejected")).groupBy("reason").agg(F.count("*").alias("clips"))
    rejected_by_reason = {row.reason: row.clips for row in by_reason.orderBy("reason").collect()}
    record = {
        "source": source.path,
        "format": source.format,
        "dim": dim,
        "rows": rows.count() + len(overlooked),
        "accepted": rows.filter("reason is null").count() - duplicates.count(),
        "rejected": sum(rejected_by_reason.values()),
        "rejected_by_reason": rejected_by_reason,
        "bytes_written": run.storage.size(run.work("embeddings")),
    }
    _check(record, options)
    return record


def accepted(run: Run) -> DataFrame:
    """The usable clips: id, embedding (packed), and rank_0, rank_1, … for --rank-by."""
    loaded = run.records["embeddings"]
    rows = run.storage.table(run.work("embeddings")).filter(f"reason is null and dim = {loaded['dim']}")
    if decode.DUPLICATE_ID in loaded["rejected_by_reason"]:
        rows = rows.join(run.storage.table(run.work("duplicate_ids")).select("row"), "row", "left_anti")
    return rows.drop("row", "source", "dim", "reason")


# What a reader gives: the files as Spark reads them, the packed rows, and the settings to read them with.
_Reading = tuple[DataFrame, DataFrame, dict[str, int]]


def _read_clips(spark: SparkSession, source: Source, options: Options) -> _Reading:
    if options.rank_by:
        raise JobError("--rank-by needs columns to rank by: clip files have none, Parquet may")
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    suffixes = ",".join(suffix[1:] for suffix in decode.SUFFIXES)
    files = reader.option("pathGlobFilter", f"*.{{{suffixes}}}").load(escape_glob(source.path))
    packed = files.select("path", "content").mapInArrow(adapters.decode_clips, adapters.EMBEDDING_COLUMNS)
    # Spark fills a task by the bytes of its files plus a cost for opening each. With a cost above all their
    # bytes together, what counts is the number of files.
    cost = min(2**40, 2**62 // options.files_per_partition)
    return (
        files,
        packed,
        {
            "spark.sql.files.openCostInBytes": cost,
            "spark.sql.files.maxPartitionBytes": cost * options.files_per_partition,
            "spark.sql.files.minPartitionNum": 1,
        },
    )


def _read_parquet(spark: SparkSession, source: Source, options: Options) -> _Reading:
    reader = spark.read.option("recursiveFileLookup", "true")
    if options.input_format == "auto":
        reader = reader.option("pathGlobFilter", "*.parquet")
    table = reader.parquet(escape_glob(source.path))
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
    rank_fields = []
    for n, ranked in enumerate(options.rank_by):
        _check_column(types, "--rank-by", ranked.name, (T.AtomicType,), "a column that can be sorted")
        # pandas has no whole numbers with nulls; decimals keep every digit.
        whole = isinstance(types[ranked.name], T.IntegralType)
        kind = "decimal(20,0)" if whole else types[ranked.name].simpleString()
        columns.append(_column(ranked.name).cast(kind).alias(f"rank_{n}"))
        rank_fields.append(f", rank_{n} {kind}")
    packed = table.select(columns).mapInArrow(adapters.pack_lists, adapters.EMBEDDING_COLUMNS + "".join(rank_fields))
    # At most --files-per-partition files a task: each counts as at least its share of a task's bytes.
    jvm: Any = spark._jvm
    task_bytes = jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(
        spark.conf.get("spark.sql.files.maxPartitionBytes")
    )
    return table, packed, {"spark.sql.files.openCostInBytes": task_bytes // options.files_per_partition}


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


def _overlooked_clips(
    spark: SparkSession, storage: Storage, source: Source, files: DataFrame, rows: DataFrame
) -> list[tuple[str, str, str]]:
    """Clip files that Spark passes over in silence: (id, source, reason) of each, to be rejected aloud.

    Those are empty files, and names that Hadoop hides because they begin with `_` or `.`.
    """
    if storage.is_file(source.path):
        return []
    hidden = [
        path
        for path in storage.glob(source.path, "{[_.]*,*/[_.]*}")
        if path.endswith(decode.SUFFIXES) and _is_hidden(path.rsplit("/", 1)[-1])
    ]
    overlooked = [(decode.clip_id(path), path, decode.HIDDEN_NAME) for path in hidden]
    listed: Any = files._jdf.inputFiles()  # stays in the JVM unless some are missing: there may be millions
    if len(listed) != rows.count():
        jvm: Any = spark._jvm
        uris = jvm.org.apache.hadoop.util.StringUtils.join("\n", listed).split("\n")
        paths = spark.createDataFrame(
            pd.DataFrame({"source": [unquote(uri).replace("file:///", "file:/", 1) for uri in uris]}), "source string"
        )
        missing = paths.join(rows.select("source"), "source", "left_anti").collect()
        overlooked += [(decode.clip_id(row.source), row.source, decode.UNREADABLE) for row in missing]
    return overlooked


def _is_hidden(name: str) -> bool:
    """The rule of Spark's file listing (HadoopFSUtils.shouldFilterOutPathName)."""
    return name[0] == "." or ("=" not in name and not name.startswith(("_metadata", "_common_metadata")))


def _most_common_dimension(rows: DataFrame) -> int | None:
    """The dimension most usable rows have, of equally common ones the greater; None when no row is usable."""
    counts = rows.filter("reason is null").groupBy("dim").count().orderBy(F.desc("count"), F.desc("dim"))
    first = counts.first()
    return int(first["dim"]) if first else None


def _duplicate_ids(rows: DataFrame) -> DataFrame:
    """All rows of an id but one, whichever order they came in: the one with the smallest content stays."""
    usable = rows.filter("reason is null")
    repeated = usable.groupBy("id").count().filter("count > 1").select("id")
    content = [name for name in rows.columns if name not in ("id", "source", "row")]
    window = Window.partitionBy("id").orderBy(*content, "source", "row")
    numbered = usable.join(repeated, "id", "left_semi").withColumn("nth", F.row_number().over(window))
    return numbered.filter("nth > 1").select("row", "id", "source", F.lit(decode.DUPLICATE_ID).alias("reason"))


def _check(record: Record, options: Options) -> None:
    """Stop on nothing usable, on too much rejected, and on a row that got lost."""
    where = f"--input-embeddings-path {record['source']}"
    reasons = ", ".join(f"{reason} {count}" for reason, count in record["rejected_by_reason"].items())
    if record["rows"] == 0:
        raise JobError(f"{where} holds no clips")
    if record["accepted"] == 0:
        raise JobError(f"{where}: none of its {record['rows']} clips is usable ({reasons})")
    if record["accepted"] + record["rejected"] != record["rows"]:
        raise JobError(
            f"{where}: of {record['rows']} rows read, {record['accepted']} were accepted and "
            f"{record['rejected']} rejected: the input changed while it was read; run again with --overwrite"
        )
    if record["rejected"] > options.max_rejected_fraction * record["rows"]:
        raise JobError(
            f"--max-rejected-fraction {options.max_rejected_fraction}: {record['rejected']} of {record['rows']} "
            f"clips were rejected ({reasons}); see {options.output_path.rstrip('/')}/rejected, mend the input "
            "or allow more"
        )
