"""Verify: the results keep what the README says of them, counted in what was written."""

import dataclasses
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.decisions import decisions, summary_csv
from jobs.embeddings import Clips
from jobs.errors import JobError
from jobs.listing import list_files
from jobs.options import Options, eps_text
from jobs.stages import Record, Run, changed_input
from udfs.adapters.batches import task
from udfs.adapters.reading import random_ranks
from udfs.ranking import RankColumn, rank_columns


@dataclasses.dataclass(frozen=True)
class Ids:
    """Some ids in numbers: how many, and the sum of their hashes, which differs for other ids."""

    rows: int = 0
    hashes: int = 0

    def __add__(self, other: "Ids") -> "Ids":
        return Ids(self.rows + other.rows, self.hashes + other.hashes)


def _of_ids() -> tuple[Column, Column]:
    """The aggregates that make `Ids` of a column `id`."""
    hashes = F.coalesce(F.sum(F.xxhash64("id").cast("decimal(20,0)")), F.lit(0))
    return F.count("*").alias("rows"), hashes.cast("decimal(38,0)").alias("hashes")


def verify(spark: SparkSession, options: Options, run: Run) -> Record:
    """Returns what was counted. Raises JobError, which says what does not hold, and the run is not complete then.

    - Each accepted clip is in clustering/assignments/ once, and at each eps kept or removed.
    - Removed are those with a score of at least 1 - eps.
    - Each match is a clip, and earlier in rank.
    - dedup_summary.csv, run.json and extraction/ say the same as dedup/.
    - rejected/ holds the rest of the input.
    - Input that was read where it lies has not changed meanwhile.
    """
    loaded = run.records["embeddings"]
    if not loaded["packed"]:
        now = dataclasses.asdict(list_files(spark, run.storage, run.source, options))
        if now != run.input:
            changed = changed_input(options.input_embeddings_path, run.input, now)
            raise JobError(f"{changed}: start afresh with --overwrite")

    everyone = _ids(_assignments(run))
    _hold(everyone.rows == loaded["accepted"], f"{loaded['accepted']} clips accepted, {everyone.rows} assigned")
    distinct = _assignments(run).select("id").distinct().count()
    _hold(distinct == everyone.rows, f"{everyone.rows} clips assigned, but {distinct} different ids")
    decided = _check_decisions(options, run, everyone)
    if options.eps_to_extract is not None:
        eps = eps_text(options.eps_to_extract)
        for decision, name in (("kept", "kept_ids.parquet"), ("removed", f"unique_ids_{eps}.parquet")):
            extracted = _ids(run.storage.table(run.path("extraction", name), "id string"))
            there = decided[eps, decision]
            _hold(extracted == there, f"{there.rows} clips {decision} at eps {eps}, {extracted.rows} in {name}")
    rejected = run.storage.table(run.path("rejected"), "id string, source string, reason string").count()
    _hold(
        loaded["rows"] - loaded["accepted"] == rejected == loaded["rejected"],
        f"{loaded['rows']} clips read, {loaded['accepted']} accepted, {rejected} in rejected/",
    )
    return {"clips": everyone.rows, "rejected": rejected, "matches": _check_matches(spark, options, run)}


def _check_decisions(options: Options, run: Run, everyone: Ids) -> dict[tuple[str, str], Ids]:
    """The ids by eps and decision."""
    thresholds = [F.when(F.col("eps") == eps_text(eps), F.lit(1.0 - eps)) for eps in options.eps_thresholds]
    far_enough = F.coalesce(F.col("cosine_sim_score") >= F.coalesce(*thresholds), F.lit(False))
    wrong = F.sum((far_enough != (F.col("decision") == "removed")).cast("long")).alias("wrong")
    rows = decisions(run).groupBy("eps", "decision").agg(*_of_ids(), wrong).collect()
    found = {(row.eps, row.decision): Ids(row.rows, int(row.hashes)) for row in rows}
    for row in rows:
        _hold(row.wrong == 0, f"{row.wrong} clips are {row.decision} at eps {row.eps} against their scores")
    every = {(eps_text(eps), decision): Ids() for eps in options.eps_thresholds for decision in ("kept", "removed")}
    _hold(found.keys() <= every.keys(), f"dedup/ holds {sorted(found)}, of other thresholds than these")
    decided = every | found
    counts: dict[str, dict[str, int]] = {eps_text(eps): {} for eps in options.eps_thresholds}
    for (eps, decision), ids in decided.items():
        counts[eps][decision] = ids.rows
    for eps in counts:
        kept, removed = decided[eps, "kept"], decided[eps, "removed"]
        _hold(
            kept + removed == everyone,
            f"{everyone.rows} clips assigned, at eps {eps} {kept.rows} kept and {removed.rows} removed, or other ones",
        )
    _hold(run.records["decisions"]["by_eps"] == counts, f"run.json counts otherwise than dedup/, {counts}")
    _hold(run.storage.read(run.path("dedup_summary.csv")) == summary_csv(counts), f"dedup_summary.csv is not {counts}")
    return decided


def _check_matches(spark: SparkSession, options: Options, run: Run) -> int:
    """The number of clips that have a match."""
    rank = rank_columns(
        options.which_to_keep, [RankColumn(f"rank_{n}", column.descending) for n, column in enumerate(options.rank_by)]
    )
    ranked = _assignments(run)
    if options.rank_by:
        ranked = ranked.join(Clips(spark, options, run).ranks(), "id")
    if any(column.name == "random_rank" for column in rank):
        ranks = ranked.select("id").mapInArrow(task(random_ranks(options.seed)), "id string, random_rank bigint")
        ranked = ranked.join(ranks, "id")
    names = [column.name for column in rank]
    others = ranked.select(*(F.col(name).alias(f"max_{name}") for name in names))
    matched = decisions(run).filter((F.col("eps") == eps_text(options.eps_thresholds[0])) & F.col("max_id").isNotNull())
    pairs = matched.select("id", "max_id")
    if set(names) > {"id"}:
        pairs = pairs.join(ranked.select(*names), "id")
    total = pairs.join(others.withColumn("known", F.lit(True)), "max_id", "left").agg(
        F.count("*").alias("pairs"),
        F.count("known").alias("known"),
        F.coalesce(F.sum(_earlier(rank).cast("long")), F.lit(0)).alias("earlier"),
    )
    row = total.collect()[0]
    _hold(row.known == row.pairs == matched.count(), f"of {row.pairs} matches {row.known} are clips")
    _hold(row.earlier == row.pairs, f"of {row.pairs} matches {row.earlier} are earlier in rank than their clip")
    return int(row.pairs)


def _earlier(rank: tuple[RankColumn, ...]) -> Column:
    """Whether a match (max_id, …) ranks before its clip (id, …): nulls last, ties by the next column."""

    def before(column: RankColumn, ties: Column) -> Column:
        other, own = F.col(f"max_{column.name}"), F.col(column.name)
        first = other > own if column.descending else other < own
        return F.coalesce(first, other.isNotNull() & own.isNull()) | (other.eqNullSafe(own) & ties)

    return reduce(lambda ties, column: before(column, ties), reversed(rank), F.lit(False))


def _assignments(run: Run) -> DataFrame:
    schema = "id string, cluster_id int, cosine_dist_to_cent double"
    return run.storage.table(run.path("clustering", "assignments"), schema)


def _ids(table: DataFrame) -> Ids:
    row = table.agg(*_of_ids()).collect()[0]
    return Ids(row.rows, int(row.hashes))


def _hold(condition: bool, otherwise: str) -> None:
    if not condition:
        raise JobError(
            f"the results do not hold: {otherwise}; do not use them. Run again with --overwrite, and if it comes "
            "again, report it"
        )
