"""A real local Spark session for the tests here, and ways to run the job on it and to read what it wrote."""

import dataclasses
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.dedup import run
from jobs.options import Options, parse
from jobs.stages import Run
from tests.reference import real_embeddings

CONF = Path(__file__).parents[2] / "conf" / "local"
EMULATION = Path(__file__).parents[1] / "emulation"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("spark")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    os.environ["SPARK_CONF_DIR"] = str(CONF)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "2g")
    # For those that ask for CuPy.
    builder = builder.config("spark.executorEnv.PYTHONPATH", str(EMULATION)).config(
        "spark.executorEnv.KERNELS", "numpy"
    )
    session = builder.config("spark.sql.shuffle.partitions", "4").getOrCreate()
    yield session
    session.stop()


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run and what it wrote."""

    job: Run
    output: Path

    def table(self, name: str) -> pd.DataFrame:
        """One output table, sorted by id; columns from folder names included, as text."""
        folders = pa.schema([("eps", pa.string()), ("decision", pa.string())])
        partitioning = {"partitioning": ds.partitioning(folders, flavor="hive")} if name == "dedup" else {}
        table: pd.DataFrame = pq.read_table(self.output / name, **partitioning).to_pandas()
        keys = [key for key in ("eps", "id", "source", "reason") if key in table]
        return table.sort_values(keys).reset_index(drop=True)

    def removed(self, eps: str) -> set[str]:
        dedup = self.table("dedup")
        return set(dedup[(dedup["eps"] == eps) & (dedup["decision"] == "removed")]["id"])


RunJob = Callable[..., Result]


@pytest.fixture
def run_job(spark: SparkSession, tmp_path: Path) -> RunJob:
    """Run the job in this session: run_job(input, "--flag", "value", …, output="name")."""

    def go(source: Path, *flags: str, output: str = "out") -> Result:
        paths = ("--input-embeddings-path", str(source), "--output-path", str(tmp_path / output))
        options: Options = parse([*paths, *flags])
        # As spark_session() sets it.
        spark.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
        return Result(run(spark, options), tmp_path / output)

    return go


def write_clips(folder: Path, clips: dict[str, object], raw: dict[str, bytes] | None = None) -> Path:
    """Pickles of the values by id, and files of raw bytes by name."""
    folder.mkdir(parents=True)
    for name, value in clips.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(value))
    for name, content in (raw or {}).items():
        (folder / name).write_bytes(content)
    return folder


def write_parquet(folder: Path, ids: list[str], rows: np.ndarray, files: int = 1, **columns: object) -> Path:
    """A table of id, embedding as list<float> and any other columns, in some files."""
    folder.mkdir(parents=True)
    lists = pa.array([row.astype(np.float32).tolist() for row in rows], pa.list_(pa.float32()))
    table = pa.table({"id": ids, "embedding": lists, **columns})
    bounds = np.linspace(0, len(ids), files + 1).astype(int)
    for n in range(files):
        pq.write_table(table.slice(bounds[n], bounds[n + 1] - bounds[n]), folder / f"part-{n:05d}.parquet")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """200 real embeddings as Parquet."""
    ids, rows = real_embeddings()
    return write_parquet(tmp_path / "in", ids[:200], rows[:200])
