"""Measure the job and its rivals on the same data in one run, and print Markdown tables.

    python scripts/benchmark.py --embeddings embeddings.npy [--parts small match million rivals growth skew] --work DIR

Every contender is a process of its own that reads the same Parquet and writes its result; its time is that of the
whole process. Where two are compared, they take turns, and medians count.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pyarrow.dataset as ds

from scripts.bench import data
from scripts.bench.processes import ROOT, PeakMemory, finished, timed
from scripts.bench.truth import Truth

PARTS = ("small", "match", "million", "rivals", "growth", "skew")
EPS = (0.01, 0.001)
LIMIT = 600  # seconds; a rival that needs more is reported as not finished


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--embeddings", type=Path, required=True, help=".npy of real embeddings, rows x dimension")
    p.add_argument("--work", type=Path, required=True, help="folder for data and results")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    p.add_argument("--repeats", type=int, default=3, help="turns of each contender in the paired comparisons")
    p.add_argument("--rows", type=int, default=1_000_000, help="rows of the large size")
    p.add_argument("--rival-limit", type=int, default=LIMIT, help="seconds until a rival is stopped")
    args = p.parse_args()
    print(f"{date.today()}, {machine()}\n", flush=True)
    bench = Bench(args.work, args.embeddings, args.repeats, args.rows, args.rival_limit)
    for part in args.parts:
        getattr(bench, part)()


def machine() -> str:
    """One line about where this runs."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    versions = [f"{name} {module_version(name)}" for name in ("pyspark", "numpy", "faiss-cpu", "semhash")]
    versions = [f"Python {platform.python_version()}", *versions, f"commit {commit.stdout.strip()}"]
    return f"{os.cpu_count()} cores of {cpu}; {', '.join(versions)}"


def module_version(name: str) -> str:
    """Of an installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


class Bench:
    """The parts of the benchmark, on data grown from one set of real embeddings."""

    def __init__(self, work: Path, embeddings: Path, repeats: int, rows: int, limit: int) -> None:
        self.work, self.embeddings, self.real = work, embeddings, np.load(embeddings)
        self.repeats, self.rows, self.limit = repeats, rows, limit

    def dataset(self, name: str, make: Callable[[], np.ndarray]) -> Path:
        """Parquet of the rows, made once."""
        folder = self.work / "data" / name
        if not folder.exists():
            data.write(make(), folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
        return folder

    def grown(self, rows: int) -> Path:
        """Parquet of so many rows grown from the real ones."""
        return self.dataset(f"grown-{rows}", lambda: data.grow(self.real, rows))

    def job(self, source: Path, name: str, *flags: str) -> tuple[float, dict[str, Any], Path]:
        """Run the job; its seconds, its run.json and its output."""
        out = self.work / "out" / name
        paths = ["--input-embeddings-path", str(source), "--output-path", str(out), "--input-format", "parquet"]
        seconds = timed([str(ROOT / "scripts/run.sh"), *paths, "--overwrite", *flags])
        return seconds, json.loads((out / "run.json").read_text()), out

    def rival(self, name: str, source: Path, label: str, *more: str) -> tuple[float | None, Path]:
        """Run a rival; None seconds when it did not finish."""
        out = self.work / "out" / label
        command = [sys.executable, "-m", "scripts.bench.rivals", name, str(source), str(out), *more]
        try:
            return timed(command, self.limit), out
        except subprocess.TimeoutExpired:
            return None, out

    def floor(self, source: Path, name: str, clusters: int) -> float:
        """Run the floor."""
        out = self.work / "out" / name
        return timed(
            [sys.executable, "-m", "scripts.bench.floor", str(source), str(out), "--n-clusters", str(clusters)]
        )

    def small(self) -> None:
        """All contenders on the real embeddings, with their recall against float64 brute force."""
        source = self.dataset("real", lambda: self.real.astype(np.float32))
        truth = Truth(*data.read(source), EPS)
        seconds, _, out = self.job(source, "real", "--n-clusters", "100")
        title(f"{len(self.real):,} real embeddings, eps {EPS[0]} {EPS[1]}")
        row("contender", "seconds", *(f"{what} at {e:g}" for e in EPS for what in ("recall", "precision")))
        row(*["---"] * 6)
        row("this job, all pairs", f"{seconds:.1f}", *truth.shares(*job_result(out)))
        seconds, _, out_cluster = self.job(source, "real-cluster", "--n-clusters", "100", "--match-scope", "cluster")
        row("this job, pairs in one cluster", f"{seconds:.1f}", *truth.shares(*job_result(out_cluster)))
        for name, label in (
            ("curator", "Curator's algorithm (its matching only)"),
            ("semhash", "SemHash"),
            ("faiss-range", "FAISS brute force, float32"),
            ("textbook", "textbook Spark job, k = 100"),
        ):
            taken, result = self.rival(name, source, f"real-{name}", "--run", str(out_cluster))
            shares = truth.shares(*rival_result(result)) if taken is not None else ["-"] * 4
            row(label, f"{taken:.1f}" if taken is not None else f"> {self.limit}", *shares)
        few = self.dataset("real-20000", lambda: self.real[:20_000].astype(np.float32))
        taken, result = self.rival("mllib-lsh", few, "real-lsh")
        shares = Truth(*data.read(few), EPS).shares(*rival_result(result)) if taken is not None else ["-"] * 4
        row("MLlib LSH, first 20,000 rows only", f"{taken:.1f}" if taken is not None else f"> {self.limit}", *shares)

    def match(self) -> None:
        """The match function alone, on one core as in a Spark task."""
        title(f"the match function on one cell, seconds on one core, medians of {self.repeats} turns")
        one_core = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "scripts.bench.one_cell", str(self.embeddings), "--repeats", str(self.repeats)]
        print(finished(command, environment=one_core), flush=True)

    def million(self) -> None:
        """The large size: the job and the floor in turns."""
        source = self.grown(self.rows)
        title(f"{self.rows:,} grown embeddings, eps {EPS[0]} {EPS[1]}")
        turns: dict[str, list[float]] = {"job": [], "floor": []}
        record: dict[str, Any] = {}
        for _ in range(self.repeats):
            seconds, record, _ = self.job(source, "grown")
            turns["job"].append(seconds)
            turns["floor"].append(self.floor(source, "grown-floor", record["stages"]["clustering"]["clusters"]))
        ours, floor = statistics.median(turns["job"]), statistics.median(turns["floor"])
        row("contender", "seconds", "ratio to this job")
        row("---", "---", "---")
        row("this job, all pairs", f"{ours:.1f}", "1")
        row("the floor, pairs in one cluster", f"{floor:.1f}", f"{floor / ours:.2f}")
        print(f"\nturns: {turns}", flush=True)
        shuffled = sum(stage["bytes_shuffled"] for stage in record["stages"].values())
        size = self.rows * self.real.shape[1] * 4
        print(f"\nbytes shuffled: {shuffled:,}, {shuffled / size:.3f} of the embeddings' {size:,}\n", flush=True)
        profile(record)

    def rivals(self) -> None:
        """The large size in SemHash and in the textbook job, or the largest that it finishes."""
        title(f"other tools on grown embeddings, stopped after {self.limit} s")
        row("contender", "rows", "seconds", "this job", "ratio")
        row(*["---"] * 5)
        for name, sizes in (("semhash", (1,)), ("textbook", (5, 2, 1))):
            for rows in (self.rows // part for part in sizes):
                source = self.grown(rows)
                seconds, _, _ = self.job(source, f"grown-{rows}")
                taken, _ = self.rival(name, source, f"{name}-{rows}")
                least = "" if taken else "> "
                spent = taken or self.limit
                row(name, f"{rows:,}", f"{least}{spent:.1f}", f"{seconds:.1f}", f"{least}{spent / seconds:.1f}")
                if taken is None:
                    break

    def growth(self) -> None:
        """Seconds by number of rows, clusters chosen by the job."""
        title("growth")
        row("rows", "seconds", "clusters", "pairs bounded", "bytes shuffled")
        row(*["---"] * 5)
        for rows in (self.rows // 8, self.rows // 4, self.rows // 2, self.rows):
            seconds, record, _ = self.job(self.grown(rows), f"grown-{rows}")
            stages = record["stages"]
            pairs = stages["screening"].get("pairs_bounded", 0) + stages["matching"]["pairs_bounded"]
            shuffled = sum(stage["bytes_shuffled"] for stage in stages.values())
            row(f"{rows:,}", f"{seconds:.1f}", stages["clustering"]["clusters"], f"{pairs:,}", f"{shuffled:,}")

    def skew(self) -> None:
        """Half of the rows one group, most of it bit-identical; against grown rows of the same number."""
        rows = self.rows // 2
        title(f"skew, {rows:,} rows")
        row("data", "seconds", "peak memory of a Python worker")
        row("---", "---", "---")
        for name, make in (("grown", data.grow), ("skewed", data.skew)):
            source = self.dataset(f"{name}-{rows}", lambda make=make: make(self.real, rows))  # type: ignore[misc]
            peak = PeakMemory()
            with peak:
                seconds, record, _ = self.job(source, f"{name}-{rows}")
            row(name, f"{seconds:.1f}", f"{peak.bytes / 2**30:.2f} GiB")
            profile(record)


def job_result(out: Path) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """Ids in rank order (hard) and what the job removed."""
    table = ds.dataset(out / "dedup", partitioning="hive").to_table().to_pandas()
    placed = ds.dataset(out / "clustering/assignments").to_table().to_pandas()
    ids = placed.sort_values(["cosine_dist_to_cent", "id"], ascending=False)["id"].to_numpy()
    removed = {}
    for eps in EPS:
        at_eps = table[np.isclose(table["eps"].astype(float), eps)].set_index("id").loc[ids]
        removed[eps] = (at_eps["decision"] == "removed").to_numpy()
    return ids, removed


def rival_result(out: Path) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """What a rival wrote."""
    result = np.load(out / "result.npz")
    return result["ids"], {eps: result[f"removed_{eps:g}"] for eps in EPS}


def profile(record: dict[str, Any]) -> None:
    """Where the seconds go."""
    order = ("embeddings", "clustering", "placement", "screening", "matching", "decisions")
    print()
    row("stage", "seconds", "bytes read", "bytes shuffled", "pairs bounded", "pairs scored")
    row(*["---"] * 6)
    for name in order:
        s = record["stages"][name]
        counts = [
            f"{s[key]:,}" if key in s else ""
            for key in ("bytes_read", "bytes_shuffled", "pairs_bounded", "pairs_scored")
        ]
        row(name, f"{s['seconds']:.1f}", *counts)
    print(flush=True)


def title(text: str) -> None:
    print(f"\n### {text}\n", flush=True)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
