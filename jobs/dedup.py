"""Semantic deduplication of clip embeddings: `spark-submit jobs/dedup.py --help`."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: make `jobs` and `udfs` importable, and jobs/*.py not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.clustering import cluster
from jobs.decisions import decide
from jobs.embeddings import load
from jobs.engine import choose_engine
from jobs.errors import JobError, UsageError, advice
from jobs.lease import hold_output
from jobs.listing import list_files
from jobs.matching import match
from jobs.options import Options, parse
from jobs.placement import place
from jobs.redaction import RedactingFormatter, learn_secrets, redact
from jobs.screening import screen
from jobs.session import spark_session
from jobs.sources import locate
from jobs.stages import Record, Run, open_run
from jobs.storage import Storage, java_message
from jobs.verification import verify


def run(spark: SparkSession, options: Options) -> Run:
    """The whole job: each stage writes its part of the output and leaves a record."""
    storage = Storage(spark)
    engine = choose_engine(spark, options)
    source = locate(storage, options)
    with hold_output(spark, storage, options.output_path) as lease:
        job = open_run(storage, options, source, list_files(spark, storage, source, options), lease)
        job.stage("embeddings", lambda: load(spark, options, job, engine))
        job.stage("clustering", lambda: cluster(spark, options, job, engine))
        job.stage("placement", lambda: place(spark, options, job, engine))
        job.stage("screening", lambda: screen(options, job, engine))
        job.stage("matching", lambda: match(spark, options, job, engine))
        job.stage("decisions", lambda: decide(options, job))
        job.stage("verification", lambda: verify(spark, options, job))
        job.finish()
    return job


def main(argv: Sequence[str] | None = None) -> None:
    """The console command. Returns on success; raises SystemExit with one line on stderr otherwise."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s semdedup %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("jobs").setLevel(logging.INFO)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what it logs with a traceback it also raises
    learn_secrets(os.environ.items())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `finally`, as other errors
    try:
        options = parse(argv)
        with spark_session() as spark:
            print(redact(summary(run(spark, options))))
    except UsageError as e:
        _fail(f"{e} (see --help)", 2)
    except JobError as e:
        _fail(str(e), 1)
    except (Py4JError, PySparkException) as e:
        _fail(f"Spark failed: {java_message(e)}{advice(str(e))}", 1)
    except (OSError, MemoryError) as e:  # of the driver itself; no connection: its JVM has ended
        _fail(f"the driver failed: {type(e).__name__}: {e}{advice(repr(e))}", 1)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on after the last complete stage", 130)


def summary(job: Run) -> str:
    """What a person wants to know at the end, in a few lines."""
    loaded = job.records["embeddings"]
    lines = [
        f"{loaded['rows']} clips of dimension {loaded['dim']}: {loaded['rejected']} rejected{_by_reason(loaded)}, "
        f"{job.records['clustering']['clusters']} clusters",
        f"{'eps':>10} {'kept':>12} {'removed':>12}",
    ]
    lines += [
        f"{eps:>10} {count['kept']:>12} {count['removed']:>12}"
        for eps, count in job.records["decisions"]["by_eps"].items()
    ]
    return "\n".join([*lines, f"results: {job.output_path}"])


def _by_reason(loaded: Record) -> str:
    counts = ", ".join(f"{reason} {count}" for reason, count in loaded["rejected_by_reason"].items())
    return f" ({counts})" if counts else ""


def _fail(message: str, code: int) -> None:
    print(redact(f"semdedup: error: {message}"), file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
