"""Place: the home of each clip, the cells it visits as a guest, and its sketch."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.clustering import read_basis, read_centroids
from jobs.embeddings import Clips
from jobs.options import Options
from jobs.stages import Record, Run
from udfs.adapters.screening import PLACEMENT_COLUMNS, place_clips


def place(spark: SparkSession, options: Options, run: Run) -> Record:
    """Write the placements of all clips (PLACEMENT_COLUMNS) to the run's intermediate tables."""
    basis = read_basis(run)
    if not run.records["clustering"]["two_passes"]:
        basis = basis[:, :0]
    context = spark.sparkContext
    function = place_clips(context.broadcast(read_centroids(run)), context.broadcast(basis), options.guest_eps)
    clips = Clips(spark, options, run)
    with clips.reading():
        clips.map(function, PLACEMENT_COLUMNS).write.mode("overwrite").parquet(run.work("placements"))
    written = run.storage.table(run.work("placements"))
    total = written.agg(F.count("*").alias("rows"), F.sum(F.size("guests")).alias("guests")).collect()[0]
    return {
        "rows": total["rows"],
        "guests": total["guests"],
        "bytes_written": run.storage.size(run.work("placements")),
    }


def in_cells(placed: DataFrame) -> DataFrame:
    """One row for each cell that a clip belongs to: `cell`, and `home` where it is its own."""
    cells = F.explode(F.concat(F.array("cluster_id"), "guests"))
    return placed.withColumn("cell", cells).withColumn("home", F.col("cell") == F.col("cluster_id"))


def rows_by_cell(cells: DataFrame) -> dict[int, int]:
    """How many rows each cell has."""
    return {row.cell: row["count"] for row in cells.groupBy("cell").count().collect()}
