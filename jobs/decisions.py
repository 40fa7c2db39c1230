"""Decide: kept or removed at each eps, from the stored scores."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.matching import matches
from jobs.options import Options, eps_text
from jobs.placement import clips
from jobs.session import settings
from jobs.stages import Record, Run

_WRITTEN = (
    "id string, cluster_id int, cosine_dist_to_cent double, max_id string, cosine_sim_score double, "
    "eps string, decision string"
)


def decide(options: Options, run: Run) -> Record:
    """Write dedup/, dedup_summary.csv, clustering/assignments/ and extraction/; returns kept and removed by eps."""
    placed = clips(run)
    run.storage.write_output(placed, run.path("clustering", "assignments"))
    decided = with_decisions(placed.join(matches(run), "id", "left"), options.eps_thresholds)
    # A task keeps a file open for each folder; else it would sort its rows by folder first.
    writers = {"spark.sql.maxConcurrentOutputFileWriters": 2 * len(options.eps_thresholds)}
    with settings(placed.sparkSession, writers):
        run.storage.write_output(decided, run.path("dedup"), "eps", "decision")
    counts = _count(options, run)
    run.storage.write(run.path("dedup_summary.csv"), summary_csv(counts))

    run.storage.delete(run.path("extraction"))
    if options.eps_to_extract is not None:
        eps = eps_text(options.eps_to_extract)
        at_eps = decisions(run).filter(F.col("eps") == eps)
        for decision, name in (("kept", "kept_ids.parquet"), ("removed", f"unique_ids_{eps}.parquet")):
            ids = at_eps.filter(F.col("decision") == decision).select("id")
            run.storage.write_output(ids.hint("rebalance"), run.path("extraction", name))  # in few files
    return {"by_eps": counts, "bytes_written": run.storage.size(run.path("dedup"))}


def decisions(run: Run) -> DataFrame:
    """dedup/ as it was written; eps as text."""
    return run.storage.table(run.path("dedup"), _WRITTEN)


def with_decisions(matched: DataFrame, eps_thresholds: tuple[float, ...]) -> DataFrame:
    """Each match once per eps, with `decision`: removed iff cosine_sim_score >= 1 - eps in float64, else kept."""
    thresholds = F.array(
        *(F.struct(F.lit(eps_text(eps)).alias("eps"), F.lit(1.0 - eps).alias("min_score")) for eps in eps_thresholds)
    )
    removed = F.col("cosine_sim_score") >= F.col("threshold.min_score")
    return matched.withColumn("threshold", F.explode(thresholds)).select(
        *matched.columns,
        F.col("threshold.eps").alias("eps"),
        F.when(removed, "removed").otherwise("kept").alias("decision"),
    )


def _count(options: Options, run: Run) -> dict[str, dict[str, int]]:
    """Kept and removed by eps, counted in what was written."""
    counts = {eps_text(eps): {"kept": 0, "removed": 0} for eps in options.eps_thresholds}
    for row in decisions(run).groupBy("eps", "decision").agg(F.count("*").alias("clips")).collect():
        counts[row.eps][row.decision] = row.clips
    return counts


def summary_csv(counts: dict[str, dict[str, int]]) -> bytes:
    """The content of dedup_summary.csv."""
    lines = [f"{eps},{c['kept']},{c['removed']},{c['kept'] + c['removed']}" for eps, c in counts.items()]
    return "\n".join(["eps,kept,removed,total", *lines, ""]).encode()
