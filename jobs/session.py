"""The Spark session, and our own code on its executors."""

import atexit
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

import udfs
from jobs.redaction import SENSITIVE, learn_secrets

# Runtime settings this job wants where the user has not chosen; static ones belong to conf/.
_DEFAULTS = {
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # A cluster's packed embeddings may exceed the 2 GiB that a plain Arrow column can hold.
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
}


@contextmanager
def spark_session() -> Iterator[SparkSession]:
    """The platform's session if there is one (a notebook, a Databricks job), else a new one, stopped after."""
    running = SparkSession.getActiveSession()
    spark = running or SparkSession.builder.appName("semdedup").getOrCreate()
    try:
        chosen = spark.sparkContext.getConf()
        learn_secrets([*chosen.getAll(), *_hadoop_secrets(spark)])
        for key, value in _DEFAULTS.items():
            if not chosen.contains(key):
                spark.conf.set(key, value)
        if not chosen.contains("spark.sql.shuffle.partitions"):
            # A few per core: clusters hash unevenly onto partitions.
            spark.conf.set("spark.sql.shuffle.partitions", max(8, 4 * spark.sparkContext.defaultParallelism))
        _ship_udfs(spark)
        yield spark
    finally:
        if running is None:
            with suppress(Py4JError, OSError):  # the JVM may be what died; of that the error on its way tells
                spark.stop()


def _hadoop_secrets(spark: SparkSession) -> list[tuple[str, str]]:
    """Hadoop's settings whose names speak of secrets; of a thousand others nothing leaves the JVM."""
    context: Any = spark.sparkContext._jsc
    found = context.hadoopConfiguration().getValByRegex(f"(?i).*({SENSITIVE}).*")
    return [(str(name), str(found[name])) for name in found]


@contextmanager
def settings(spark: SparkSession, values: dict[str, int]) -> Iterator[None]:
    """Session settings for the length of a block."""
    before = {name: spark.conf.get(name, None) for name in values}
    for name, value in values.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, old)


def _ship_udfs(spark: SparkSession) -> None:
    """Send udfs/ to the executors, unless it already came in a zip by --py-files."""
    package = Path(udfs.__file__ or "").parent
    if not package.is_dir():
        return
    # A name of its own each time, for several jobs in one session; there for executors that start late.
    handle, archive = tempfile.mkstemp(prefix="semdedup-udfs-", suffix=".zip")
    atexit.register(Path(archive).unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as zipped:
        for code in sorted([*package.rglob("*.py"), *package.rglob("*.cu")]):
            zipped.write(code, code.relative_to(package.parent))
    spark.sparkContext.addPyFile(archive)
