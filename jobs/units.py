"""Units of work on Spark: the rows of each reach one task together."""

import math

from pyspark.sql import DataFrame

from udfs.adapters.batches import ArrowFunction, task

_MOST_BYTES = 64 << 20  # of rows to sort and hand to Python in one task
_LEAST_BYTES = 1 << 20  # that are worth a task


def by_unit(rows: DataFrame, function: ArrowFunction, schema: str, size: int) -> DataFrame:
    """Apply a function to rows that come sorted by unit (cell, a, b), all of a unit in one task.

    size: bytes of `rows`. Sorted batches instead of groupBy.applyInPandas: no group is turned into pandas, and a
    task handles its thousand small units in one call.
    """
    spark = rows.sparkSession
    chosen = spark.conf.get("spark.sql.shuffle.partitions") or ""
    usual = int(chosen) if chosen.isdigit() else 4 * spark.sparkContext.defaultParallelism  # it may be "auto"
    partitions = max(math.ceil(size / _MOST_BYTES), min(usual, math.ceil(size / _LEAST_BYTES)), 1)
    unit = ("cell", "a", "b")
    grouped = rows.repartition(partitions, *unit)
    return grouped.sortWithinPartitions(*unit).mapInArrow(task(function), schema)
