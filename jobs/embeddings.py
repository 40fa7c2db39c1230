"""Load: find the usable clips, and set the others aside in rejected/.

Parquet is read where it lies, by each pass over the clips. Clip files are many and small, so they are packed into
one table first; so is Parquet with an id that occurs twice, or with several dimensions.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import NoReturn

import pandas as pd
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.errors import JobError
from jobs.footers import Unreadable, unreadable_files
from jobs.listing import overlooked
from jobs.options import Options
from jobs.planning import auto_clusters, look_rows, training_rows
from jobs.readers import Reader, reader
from jobs.session import settings
from jobs.stages import Record, Run
from udfs import reasons
from udfs.adapters.batches import ArrowFunction, task
from udfs.adapters.gpu import Engine
from udfs.adapters.reading import SCANNED_COLUMNS, draw_clips, scan, tally, usable
from udfs.keysets import EVERY_DRAW

_REJECTED_COLUMNS = "id string, source string, reason string"


def load(spark: SparkSession, options: Options, run: Run, engine: Engine) -> Record:
    """Write what a scan of the input finds, and rejected/; returns the counts and the dimension.

    Of the usable clips all rows are written, or only those that the sample may need.
    """
    source = run.source
    lost = unreadable_files(spark, source, options) if source.format == "parquet" else []
    reading = reader(spark, source, options, [file.path for file in lost])
    share = 1.0 if source.format == "clips" else _share_to_scan(options, reading, engine)
    scanned = _scan(spark, options, run, reading, share)
    usable, unusable, repeats = _count(scanned)
    if share < 1 and (repeats or len(usable) > 1):
        share = 1.0
        scanned = _scan(spark, options, run, reading, share)
    rows = _whole(scanned)

    # The dimension that most usable rows have, of equally common ones the greater.
    dim = max(usable, key=lambda d: (usable[d], d), default=None)
    rejected = []
    if unusable or len(usable) > 1:
        other_dim = F.when(F.col("dim") != F.lit(dim), reasons.WRONG_DIMENSION).otherwise(F.col("reason"))
        rejected.append(rows.withColumn("reason", other_dim).filter("reason is not null"))
    if repeats:
        run.storage.write_table(_duplicate_ids(rows.filter(F.col("dim") == F.lit(dim))), run.work("duplicate_ids"))
        rejected.append(run.storage.table(run.work("duplicate_ids")))
    count = sum(usable.values()) + unusable
    if lost:
        run.storage.write_table(_unreadable_rows(spark, lost), run.work("unreadable_files"))
        rejected.append(run.storage.table(run.work("unreadable_files")))
        count += len(lost)
    if source.format == "clips":
        others, count = overlooked(spark, run.storage, source, reading.files, rows, count)
        rejected += [others] if others else []
    rejected_by_reason = _write_rejected(rejected or [rows.filter("false")], run)
    record = {
        "source": source.path,
        "format": source.format,
        "packed": share == 1,
        "scanned_share": share,
        "dim": dim,
        "rows": count,
        "accepted": (usable[dim] if dim else 0) - rejected_by_reason.get(reasons.DUPLICATE_ID, 0),
        "rejected": sum(rejected_by_reason.values()),
        "rejected_by_reason": rejected_by_reason,
        "unreadable_files": len(lost),
        "bytes_written": run.storage.size(run.work("embeddings")),
    }
    _check(record, options)
    _check_bytes(sum(file.bytes for file in lost), run, options)
    return record


class Clips:
    """The usable clips, for one pass over them after the other."""

    def __init__(self, spark: SparkSession, options: Options, run: Run) -> None:
        loaded = run.records["embeddings"]
        self._run, self._bytes_past_spark = run, 0
        self._settings = {"spark.sql.execution.arrow.maxRecordsPerBatch": batch_rows(loaded["dim"])}
        if loaded["packed"]:
            self._frame = _usable_rows(run).drop("row", "source", "dim", "reason", "draw")
            self._functions: tuple[ArrowFunction, ...] = ()
            kinds = {field.name: field.dataType.simpleString() for field in self._frame.schema}
            self.rank_kinds = {name: kind for name, kind in kinds.items() if name.startswith("rank_")}
        else:
            without = []
            if loaded["unreadable_files"]:
                without = [row.source for row in run.storage.table(run.work("unreadable_files")).collect()]
            reading = reader(spark, run.source, options, without)
            self._frame = reading.frame
            self._functions = (reading.function, usable(loaded["dim"]))
            self._settings |= reading.settings
            self._bytes_past_spark = reading.bytes_past_spark
            self.rank_kinds = dict(reading.rank_kinds)

    def map(self, function: ArrowFunction, schema: str) -> DataFrame:
        """A function of batches (id, embedding packed, rank_0, …) over all clips; computed inside `reading`."""
        return self._frame.mapInArrow(task(*self._functions, function), schema)

    def ranks(self) -> DataFrame:
        """The id of each clip, and rank_0, …; no embedding is read."""
        return self._frame.select("id", *self.rank_kinds)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The Spark settings to read with."""
        with settings(self._frame.sparkSession, self._settings):
            yield
        self._run.read_by_python += self._bytes_past_spark


def batch_rows(dim: int) -> int:
    """Rows of an Arrow batch: about 24 MiB of float32, enough for BLAS and little beside a task's memory."""
    return max(1, (24 << 20) // (4 * dim))


@contextmanager
def drawn(spark: SparkSession, options: Options, run: Run, first: int, stop: int) -> Iterator[DataFrame]:
    """About the clips number `first` to `stop` (id, embedding packed, draw), in the order of a hash of the id.

    However the rows lie: the sample depends on the ids and the seed alone. To be computed inside the block.
    """
    loaded = run.records["embeddings"]
    left_out, limit = (_limit(rows / loaded["accepted"]) if rows else -1 for rows in (first, stop))
    if loaded["packed"] or stop / loaded["accepted"] <= loaded["scanned_share"]:
        some = _usable_rows(run).filter(F.col("draw") <= limit).select("id", "embedding", "draw")
        yield some.filter(F.col("draw") > left_out)
        return
    clips = Clips(spark, options, run)
    with clips.reading():
        some = clips.map(draw_clips(options.seed, limit), "id string, embedding binary, draw bigint")
        yield some.filter(F.col("draw") > left_out)


def sampled(spark: SparkSession, options: Options, run: Run, first: int, stop: int) -> pd.DataFrame:
    """The same on the driver, in that order."""
    with drawn(spark, options, run, first, stop) as some:
        return some.toPandas().sort_values(["draw", "id"])


def _scan(spark: SparkSession, options: Options, run: Run, reading: Reader, share: float) -> DataFrame:
    """Write SCANNED_COLUMNS of the input, about this share of the clips whole, or all."""
    rank_schema = "".join(f", {name} {kind}" for name, kind in reading.rank_kinds.items())
    scanned = reading.frame.mapInArrow(
        task(reading.function, scan(options.seed, _limit(share))), SCANNED_COLUMNS + rank_schema
    )
    run.read_by_python += reading.bytes_past_spark
    with settings(spark, dict(reading.settings)):
        # A row's number is only its name in the written table: nothing is ordered by it.
        numbered = scanned.withColumn("row", F.monotonically_increasing_id())
        run.storage.write_table(numbered, run.work("embeddings"))
    return run.storage.table(run.work("embeddings"), f"{SCANNED_COLUMNS}{rank_schema}, row bigint")


def _whole(scanned: DataFrame) -> DataFrame:
    """Of what was scanned the rows that stand for themselves."""
    return scanned.filter("draw is not null").drop("clips", "segment", "draws")


def _usable_rows(run: Run) -> DataFrame:
    """The whole rows that may take part: all clips where the input was packed, else those drawn."""
    loaded = run.records["embeddings"]
    rows = _whole(run.storage.table(run.work("embeddings"))).filter(f"reason is null and dim = {loaded['dim']}")
    if reasons.DUPLICATE_ID in loaded["rejected_by_reason"]:
        rows = rows.join(run.storage.table(run.work("duplicate_ids")).select("row"), "row", "left_anti")
    return rows


def _share_to_scan(options: Options, reading: Reader, engine: Engine) -> float:
    """The share of the clips, 0 to 1, that the sample may need; GPUs that train on most clips read them again."""
    rows, dim = reading.outline(options.embedding_column)
    if not dim:
        return 0.0
    training = training_rows(rows, options.n_clusters or auto_clusters(rows, dim), options, dim, engine.gpu)
    again = engine.gpu and 2 * training > rows
    return min(1.0, 1.1 * (look_rows(dim) + (0 if again else training)) / max(rows, 1))


def _limit(share: float) -> int:
    """The highest draw of about this share of the clips."""
    return min(EVERY_DRAW, int(2**63 * share))


def _count(scanned: DataFrame) -> tuple[dict[int, int], int, bool]:
    """The usable rows of each dimension, the unusable ones of all, and whether an id may be there twice."""
    counts = scanned.filter("draw is null").select("segment", "reason", "dim", "clips", "draws").repartition("segment")
    tallied = counts.drop("segment").mapInArrow(task(tally), "reason string, dim int, clips bigint, repeats bigint")
    usable: Counter[int] = Counter()
    unusable = repeats = 0
    for row in tallied.collect():
        if row.repeats is not None:
            repeats += row.repeats
        elif row.reason is None:
            usable[row.dim] += row.clips
        else:
            unusable += row.clips
    return usable, unusable, repeats > 0


def _write_rejected(tables: list[DataFrame], run: Run) -> dict[str, int]:
    """Write the rejected rows, and count by reason what was written."""
    # A path may hold the login of a filesystem that takes it from there.
    source = F.regexp_replace("source", "://[^/@:]*:[^/@]*@", "://***@").alias("source")
    columns = [table.select("id", source, "reason") for table in tables]
    rejected = reduce(DataFrame.unionByName, columns).hint("rebalance")  # in few files
    run.storage.write_output(rejected, run.path("rejected"))
    written = run.storage.table(run.path("rejected"), _REJECTED_COLUMNS)
    by_reason = written.groupBy("reason").agg(F.count("*").alias("clips"))
    return {row.reason: row.clips for row in by_reason.orderBy("reason").collect()}


def _unreadable_rows(spark: SparkSession, files: list[Unreadable]) -> DataFrame:
    """A row of _REJECTED_COLUMNS for each file."""
    return spark.createDataFrame([(None, file.path, reasons.UNREADABLE) for file in files], _REJECTED_COLUMNS)


def _duplicate_ids(rows: DataFrame) -> DataFrame:
    """All rows of an id but one, whichever order they came in: the one with the smallest content stays."""
    usable = rows.filter("reason is null")
    repeated = usable.groupBy("id").count().filter("count > 1").select("id")
    content = [name for name in rows.columns if name not in ("id", "source", "draw", "row")]
    window = Window.partitionBy("id").orderBy(*content, "source", "row")
    numbered = usable.join(repeated, "id", "left_semi").withColumn("nth", F.row_number().over(window))
    return numbered.filter("nth > 1").select("row", "id", "source", F.lit(reasons.DUPLICATE_ID).alias("reason"))


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
        _refuse(options, f"{record['rejected']} of {record['rows']} clips were rejected ({reasons})")


def _check_bytes(unreadable: int, run: Run, options: Options) -> None:
    """Stop on too many unreadable Parquet files: each is one row of rejected/, but held many clips."""
    total = run.input["bytes"]
    if unreadable > options.max_rejected_fraction * total:
        _refuse(options, f"Parquet files of {unreadable} bytes, of {total} in all, cannot be read")


def _refuse(options: Options, what: str) -> NoReturn:
    raise JobError(
        f"--max-rejected-fraction {options.max_rejected_fraction}: {what}; see "
        f"{options.output_path.rstrip('/')}/rejected, mend the input or allow more"
    )
