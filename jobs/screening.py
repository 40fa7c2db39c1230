"""Screen: find the placements that may have a match, from the sketches alone."""

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.options import Options
from jobs.placement import in_cells, rows_by_cell
from jobs.stages import Record, Run
from jobs.units import by_unit
from udfs.adapters.batches import task
from udfs.adapters.screening import (
    GATHERED_COLUMNS,
    SURVIVOR_COLUMNS,
    filter_segments,
    gather_sketches,
    key_set_members,
    screen_units,
)
from udfs.keysets import BloomFilter, KeySet, SortedKeys, members
from udfs.screening import placement_type
from udfs.units import blocks_needed

_SKETCH_BLOCKS = 4  # a block of sketches holds so many times the rows of a block of embeddings

_SORTED_ROWS = 1 << 22  # survivors that are collected and broadcast as they are: 64 MiB of keys
_BITS_PER_KEY = 12
_FILTER_BITS = 1 << 31  # a Bloom filter of at most 256 MiB


def screen(spark: SparkSession, options: Options, run: Run) -> Record:
    """Write the surviving placements (key, cell) to the run's intermediate tables."""
    if not run.records["clustering"]["two_passes"]:
        return {"skipped": "not needed: all clips are matched in one pass"}
    m = run.records["clustering"]["screen_coordinates"]
    placed = run.storage.table(run.work("placements"))
    travelling = placed.filter("sketch is not null")
    counts = rows_by_cell(in_cells(travelling))
    clusters = run.records["clustering"]["clusters"]
    blocks = blocks_needed(counts, _SKETCH_BLOCKS * options.max_block_rows, clusters)
    gather = gather_sketches(spark.sparkContext.broadcast(blocks), m)
    screened = by_unit(
        travelling.select("cluster_id", "key", "guests", "sketch").mapInArrow(task(gather), GATHERED_COLUMNS),
        screen_units(m, options.min_score),
        SURVIVOR_COLUMNS,
        size=sum(n * int(blocks[cell]) for cell, n in counts.items()) * placement_type(m).itemsize,
    )
    # Clips with equal sketches survive wherever they are.
    repeated = in_cells(placed.filter("repeated")).select("key", "cell", "copy", F.expr("cast(null as bigint) pairs"))
    screened.unionByName(repeated).write.mode("overwrite").parquet(run.work("survivors"))
    written = run.storage.table(run.work("survivors"))
    total = written.agg(F.count("key").alias("survivors"), F.sum("pairs").alias("pairs")).collect()[0]
    return {
        "placements": sum(counts.values()),
        "cells_cut": int((blocks > 1).sum()),
        "pairs_bounded": total["pairs"] or 0,
        "survivors": total["survivors"],
        "bytes_written": run.storage.size(run.work("survivors")),
    }


def surviving(run: Run) -> DataFrame:
    """The surviving placements, (key, cell, copy); some twice."""
    return run.storage.table(run.work("survivors")).filter("key is not null").drop("pairs")


def survivor_set(run: Run) -> KeySet:
    """The surviving clips and placements, as a set that each task gets."""
    placements = surviving(run).select("key", "cell")
    rows = run.records["screening"]["survivors"]
    if rows <= _SORTED_ROWS:
        collected = placements.toPandas()
        return SortedKeys(members(collected["key"].to_numpy(), collected["cell"].to_numpy()))
    bits = min(_FILTER_BITS, 2 * rows * _BITS_PER_KEY)
    held = placements.mapInArrow(task(key_set_members), "segment int, member bigint")
    segments = held.repartition("segment").mapInArrow(task(filter_segments(bits)), "segment int, words binary")
    return BloomFilter({row.segment: np.frombuffer(row.words, np.uint64) for row in segments.toLocalIterator()})
