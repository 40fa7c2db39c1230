"""Match: for each clip, the most similar clip that is earlier in rank."""

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.clustering import read_basis, read_centroids
from jobs.embeddings import Clips
from jobs.options import Options
from jobs.placement import travelling_by_cell
from jobs.screening import surviving, survivor_set
from jobs.stages import Record, Run
from jobs.units import by_unit
from udfs.adapters.batches import UNIT_COLUMNS
from udfs.adapters.gpu import Engine
from udfs.adapters.matching import match_units, send_clips
from udfs.ranking import RankColumn, rank_columns
from udfs.units import blocks_needed


def match(spark: SparkSession, options: Options, run: Run, engine: Engine) -> Record:
    """Write the matches of all clips that have one (id, max_id, cosine_sim_score) to the intermediate tables."""
    two_passes = run.records["clustering"]["two_passes"]
    if two_passes:
        by_cell = surviving(run).filter("not copy").distinct().groupBy("cell").count()
        counts = {row.cell: row["count"] for row in by_cell.collect()}
    else:
        counts = travelling_by_cell(run)
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
        engine,
    )
    sent_columns = f"{UNIT_COLUMNS}, home boolean, second boolean, leader_id string, embedding binary"
    sent = clips.map(send, ", ".join([sent_columns, *(f"{c.name} {kinds[c.name]}" for c in rank)]))
    match_function = match_units(context.broadcast(read_basis(run)), options.min_score, rank, engine)
    partial_columns = (
        "id string, leader_id string, cosine_sim_score double, "
        + "".join(f"max_{c.name} {kinds[c.name]}, " for c in rank)
        + "pairs bigint, scored bigint"
    )
    partials = by_unit(
        sent,
        match_function,
        partial_columns,
        size=sum(n * int(blocks[cell]) for cell, n in counts.items()) * 4 * run.records["embeddings"]["dim"],
    )
    with clips.reading():
        run.storage.write_table(partials, run.work("partial_matches"))
    written = run.storage.table(run.work("partial_matches"), partial_columns)
    sums = [F.sum(name).alias(name) for name in ("pairs", "scored")]
    totals = written.agg(*sums, F.count("leader_id").alias("follow")).collect()[0]
    run.storage.write_table(_best(written, rank, totals["follow"] > 0), run.work("matches"))
    return {
        "engine": engine.name,
        "placements": sum(counts.values()),
        "cells_cut": int((blocks > 1).sum()),
        "pairs_bounded": totals["pairs"] or 0,
        "pairs_scored": totals["scored"] or 0,
        "matched": matches(run).count(),
        "bytes_written": run.storage.size(run.work("matches")),
    }


def matches(run: Run) -> DataFrame:
    """The match of each clip that has one."""
    return run.storage.table(run.work("matches"), "id string, max_id string, cosine_sim_score double")


def _best(partials: DataFrame, rank: tuple[RankColumn, ...], follow: bool) -> DataFrame:
    """The match of each clip from its partial ones: the highest score, of equal ones the earliest in rank.

    A clip that follows a bit-identical one has score 1 with it, and with its leader's match where that is 1 too;
    follow: whether there are any.
    """
    order = [F.desc("cosine_sim_score"), *(_ordering(column) for column in rank)]
    nth = F.row_number().over(Window.partitionBy("id").orderBy(*order))
    found = partials.filter("cosine_sim_score is not null").withColumn("nth", nth).filter("nth = 1")
    best = found.select("id", "max_id", "cosine_sim_score")
    if not follow:
        return best
    leaders = best.select(F.col("id").alias("leader_id"), "max_id", "cosine_sim_score")
    followers = partials.filter("leader_id is not null").select("id", "leader_id").join(leaders, "leader_id", "left")
    same = F.when(F.col("cosine_sim_score") == 1.0, F.col("max_id")).otherwise(F.col("leader_id"))
    return best.unionByName(followers.select("id", same.alias("max_id"), F.lit(1.0).alias("cosine_sim_score")))


def _ordering(column: RankColumn) -> Column:
    name = f"max_{column.name}"
    return F.desc_nulls_last(name) if column.descending else F.asc_nulls_last(name)
