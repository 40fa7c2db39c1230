"""Screen: find the placements that may have a match, from the sketches alone."""

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.options import Options
from jobs.placement import cells, travelling_by_cell
from jobs.stages import Record, Run
from jobs.units import by_unit
from udfs.adapters.batches import task
from udfs.adapters.gpu import Engine
from udfs.adapters.screening import (
    SURVIVOR_COLUMNS,
    UNIT_OF_PLACEMENTS,
    cut_placements,
    filter_segments,
    key_set_members,
    screen_units,
)
from udfs.keysets import BloomFilter, KeySet, SortedKeys, members
from udfs.screening import placement_type
from udfs.units import blocks_needed
from udfs.vectors import Indices

_SKETCH_BLOCKS = 4  # a block of sketches holds so many times the rows of a block of embeddings

_SORTED_ROWS = 1 << 22  # survivors that are collected and broadcast as they are: 64 MiB of keys
_BITS_PER_KEY = 12
_FILTER_BITS = 1 << 31  # a Bloom filter of at most 256 MiB


def screen(options: Options, run: Run, engine: Engine) -> Record:
    """Write the surviving placements (key, cell) to the run's intermediate tables."""
    if not run.records["clustering"]["two_passes"]:
        return {"skipped": "not needed: all clips are matched in one pass"}
    plan = run.records["clustering"]
    m, clusters = plan["screen_coordinates"], plan["clusters"]
    counts = travelling_by_cell(run)
    blocks = blocks_needed(counts, _SKETCH_BLOCKS * options.max_block_rows, clusters)
    found = by_unit(
        _units(run, blocks, m),
        screen_units(m, clusters, options.min_score, engine),
        SURVIVOR_COLUMNS,
        size=sum(n * int(blocks[cell]) for cell, n in counts.items()) * placement_type(m, clusters).itemsize,
    )
    run.storage.write_table(found, run.work("survivors"))
    written = run.storage.table(run.work("survivors"), SURVIVOR_COLUMNS)
    total = written.agg(F.count("key").alias("survivors"), F.sum("pairs").alias("pairs")).collect()[0]
    return {
        "engine": engine.name,
        "placements": sum(counts.values()),
        "cells_cut": int((blocks > 1).sum()),
        "pairs_bounded": total["pairs"] or 0,
        "survivors": total["survivors"],
        "bytes_written": run.storage.size(run.work("survivors")),
    }


def _units(run: Run, blocks: Indices, m: int) -> DataFrame:
    """The placements by unit, UNIT_OF_PLACEMENTS."""
    placed = cells(run).select("cell", "placements", "near", "repeated")
    whole = placed.select("cell", F.lit(0).alias("a"), F.lit(0).alias("b"), "placements", "near", "repeated")
    cut = [cell for cell, count in enumerate(blocks.tolist()) if count > 1]
    if not cut:
        return whole
    cutting = task(cut_placements(placed.sparkSession.sparkContext.broadcast(blocks), m))
    in_blocks = placed.filter(F.col("cell").isin(cut)).mapInArrow(cutting, UNIT_OF_PLACEMENTS)
    return whole.filter(~F.col("cell").isin(cut)).unionByName(in_blocks)


def surviving(run: Run) -> DataFrame:
    """The surviving placements, (key, cell, copy); some twice."""
    return run.storage.table(run.work("survivors"), SURVIVOR_COLUMNS).filter("key is not null").drop("pairs")


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
