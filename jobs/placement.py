"""Place: the home of each clip, the cells it visits as a guest, and its sketch."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.clustering import read_basis, read_centroids
from jobs.embeddings import Clips
from jobs.options import Options
from jobs.stages import Record, Run
from udfs.adapters.gpu import Engine
from udfs.adapters.screening import PLACEMENT_COLUMNS, place_clips


def place(spark: SparkSession, options: Options, run: Run, engine: Engine) -> Record:
    """Write the placements of all clips (PLACEMENT_COLUMNS) to the run's intermediate tables."""
    basis = read_basis(run)
    if not run.records["clustering"]["two_passes"]:
        basis = basis[:, :0]
    context = spark.sparkContext
    function = place_clips(context.broadcast(read_centroids(run)), context.broadcast(basis), options.guest_eps, engine)
    source = Clips(spark, options, run)
    with source.reading():
        run.storage.write_table(source.map(function, PLACEMENT_COLUMNS), run.work("placements"))
    placed = cells(run).agg(F.sum("homes").alias("rows"), F.sum("guests").alias("guests")).collect()[0]
    return {
        "engine": engine.name,
        "rows": placed["rows"],
        "guests": placed["guests"],
        "bytes_written": run.storage.size(run.work("placements")),
    }


def clips(run: Run) -> DataFrame:
    """Each clip once: id, cluster_id, cosine_dist_to_cent."""
    return _table(run).filter("cell is null").select("id", "cluster_id", "cosine_dist_to_cent")


def cells(run: Run) -> DataFrame:
    """The other columns: one row for each cell and batch of clips."""
    return _table(run).filter("cell is not null").drop("id", "cluster_id", "cosine_dist_to_cent")


def travelling_by_cell(run: Run) -> dict[int, int]:
    """How many clips each cell has to compare."""
    return {row.cell: row.clips for row in cells(run).groupBy("cell").agg(F.sum("travelling").alias("clips")).collect()}


def _table(run: Run) -> DataFrame:
    return run.storage.table(run.work("placements"), PLACEMENT_COLUMNS)
