"""Semantic deduplication of clip embeddings: `spark-submit jobs/dedup.py --help`."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: make `jobs` and `udfs` importable, and jobs/*.py not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.clustering import cluster
from jobs.decisions import decide
from jobs.embeddings import load
from jobs.engine import choose_engine
from jobs.errors import JobError, UsageError, one_line
from jobs.matching import match
from jobs.options import Options, parse
from jobs.placement import place
from jobs.screening import screen
from jobs.session import spark_session
from jobs.sources import locate
from jobs.stages import Run, open_run
from jobs.storage import Storage, java_message


def run(spark: SparkSession, options: Options) -> Run:
    """The whole job: each stage writes its part of the output and leaves a record."""
    storage = Storage(spark)
    engine = choose_engine(spark, options)
    source = locate(storage, options)
    job = open_run(storage, options)
    job.stage("embeddings", lambda: load(spark, options, job, source, engine))
    job.stage("clustering", lambda: cluster(spark, options, job, engine))
    job.stage("placement", lambda: place(spark, options, job, engine))
    job.stage("screening", lambda: screen(options, job, engine))
    job.stage("matching", lambda: match(spark, options, job, engine))
    job.stage("decisions", lambda: decide(options, job))
    job.finish()
    return job


def main(argv: Sequence[str] | None = None) -> None:
    """The console command. Returns on success; raises SystemExit with one line on stderr otherwise."""
    logging.basicConfig(format="%(asctime)s semdedup %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("jobs").setLevel(logging.INFO)
    try:
        options = parse(argv)
        with spark_session() as spark:
            print(summary(run(spark, options)))
    except UsageError as e:
        _fail(f"{e} (see --help)", 2)
    except JobError as e:
        _fail(str(e), 1)
    except (Py4JJavaError, PySparkException) as e:
        _fail(f"Spark failed: {spark_message(e)}", 1)


def summary(job: Run) -> str:
    """What a person wants to know at the end, in a few lines."""
    loaded = job.records["embeddings"]
    lines = [
        f"{loaded['rows']} clips of dimension {loaded['dim']}: {loaded['rejected']} rejected, "
        f"{job.records['clustering']['clusters']} clusters",
        f"{'eps':>10} {'kept':>12} {'removed':>12}",
    ]
    lines += [
        f"{eps:>10} {count['kept']:>12} {count['removed']:>12}"
        for eps, count in job.records["decisions"]["by_eps"].items()
    ]
    return "\n".join([*lines, f"results: {job.output_path}"])


def spark_message(error: Py4JJavaError | PySparkException) -> str:
    """One line of what Spark raised."""
    return java_message(error) if isinstance(error, Py4JJavaError) else one_line(str(error))


def _fail(message: str, code: int) -> None:
    print(f"semdedup: error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
