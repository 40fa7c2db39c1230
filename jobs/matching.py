"""Match: for each clip, the most similar clip that is earlier in rank."""

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.clustering import read_basis, read_centroids
from jobs.embeddings import Clips
from jobs.options import Options
from jobs.placement import in_cells, rows_by_cell
from jobs.screening import surviving, survivor_set
from jobs.stages import Record, Run
from jobs.units import by_unit
from udfs.adapters.batches import UNIT_COLUMNS
from udfs.adapters.matching import match_units, send_clips
from udfs.ranking import RankColumn, rank_columns
from udfs.units import blocks_needed


def match(spark: SparkSession, options: Options, run: Run) -> Record:
    """Write the matches of all clips that have one (id, max_id, cosine_sim_score) to the intermediate tables."""
    two_passes = run.records["clustering"]["two_passes"]
    if two_passes:
        counts = rows_by_cell(surviving(run).filter("not copy").distinct())
    else:
        counts = rows_by_cell(in_cells(run.storage.table(run.work("placements")).filter("not copy")))
    clips = Clips(spark, options, run)
    named = [RankColumn(f"rank_{n}", column.descending) for n, column in enumerate(options.rank_by)]
    rank = rank_columns(options.which_to_keep, named)
    kinds = clips.rank_kinds | {"id": "string", "cosine_dist_to_cent": "double", "random_rank": "bigint"}

    blocks = blocks_needed(counts, options.max_block_rows, run.records["clustering"]["clusters"])
    context = spark.sparkContext
    send = send_clips(
        context.broadcast(read_centroids(run)),
        options.guest_eps,
        context.broadcast(survivor_set(run)) if two_passes else None,
        rank,
        options.seed,
        context.broadcast(blocks),
    )
    sent_columns = f"{UNIT_COLUMNS}, home boolean, second boolean, leader_id string, embedding binary"
    sent = clips.map(send, ", ".join([sent_columns, *(f"{c.name} {kinds[c.name]}" for c in rank)]))
    match_function = match_units(context.broadcast(read_basis(run)), options.min_score, rank)
    partials = by_unit(
        sent,
        match_function,
        "id string, leader_id string, cosine_sim_score double, "
        + "".join(f"max_{c.name} {kinds[c.name]}, " for c in rank)
        + "pairs bigint, scored bigint",
        size=sum(n * int(blocks[cell]) for cell, n in counts.items()) * 4 * run.records["embeddings"]["dim"],
    )
    with clips.reading():
        partials.write.mode("overwrite").parquet(run.work("partial_matches"))
    written = run.storage.table(run.work("partial_matches"))
    _best(written, rank).write.mode("overwrite").parquet(run.work("matches"))
    work = written.filter("id is null").agg(F.sum("pairs").alias("pairs"), F.sum("scored").alias("scored")).collect()[0]
    return {
        "placements": sum(counts.values()),
        "cells_cut": int((blocks > 1).sum()),
        "pairs_bounded": work["pairs"] or 0,
        "pairs_scored": work["scored"] or 0,
        "matched": run.storage.table(run.work("matches")).count(),
        "bytes_written": run.storage.size(run.work("matches")),
    }


def _best(partials: DataFrame, rank: tuple[RankColumn, ...]) -> DataFrame:
    """The match of each clip from its partial ones: the highest score, of equal ones the earliest in rank.

    A clip that follows a bit-identical one has score 1 with it, and with its leader's match where that is 1 too.
    """
    order = [F.desc("cosine_sim_score"), *(_ordering(column) for column in rank)]
    nth = F.row_number().over(Window.partitionBy("id").orderBy(*order))
    found = partials.filter("cosine_sim_score is not null").withColumn("nth", nth).filter("nth = 1")
    best = found.select("id", "max_id", "cosine_sim_score")
    leaders = best.select(F.col("id").alias("leader_id"), "max_id", "cosine_sim_score")
    followers = partials.filter("leader_id is not null").select("id", "leader_id").join(leaders, "leader_id", "left")
    same = F.when(F.col("cosine_sim_score") == 1.0, F.col("max_id")).otherwise(F.col("leader_id"))
    return best.unionByName(followers.select("id", same.alias("max_id"), F.lit(1.0).alias("cosine_sim_score")))


def _ordering(column: RankColumn) -> Column:
    name = f"max_{column.name}"
    return F.desc_nulls_last(name) if column.descending else F.asc_nulls_last(name)
