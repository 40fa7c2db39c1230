"""Match: for each clip, the most similar clip of its cluster that is earlier in rank."""

from pyspark.sql import SparkSession

from jobs.clustering import read_centroids
from jobs.embeddings import accepted
from jobs.options import Options
from jobs.stages import Record, Run
from udfs import adapters


def match(spark: SparkSession, options: Options, run: Run) -> Record:
    """Write the matches of all clips (adapters.MATCH_COLUMNS) to the run's intermediate tables."""
    clips = accepted(run)
    centroids = spark.sparkContext.broadcast(read_centroids(run))
    columns = ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in clips.schema)
    assigned = clips.mapInArrow(
        adapters.assign_clusters(centroids), f"{columns}, cluster_id int, cosine_dist_to_cent double"
    )
    match_cluster = adapters.match_cluster(
        dim=run.records["embeddings"]["dim"],
        min_score=1.0 - max(options.eps_thresholds),
        which_to_keep=options.which_to_keep,
        seed=options.seed,
        rank_by=[(f"rank_{n}", column.descending) for n, column in enumerate(options.rank_by)],
    )
    matches = assigned.groupBy("cluster_id").applyInPandas(match_cluster, adapters.MATCH_COLUMNS)
    matches.write.mode("overwrite").parquet(run.work("matches"))

    written = run.storage.table(run.work("matches"))
    return {
        "rows": written.count(),
        "matched": written.filter("max_id is not null").count(),
        "bytes_written": run.storage.size(run.work("matches")),
    }
