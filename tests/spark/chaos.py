"""Kill parts of a run at random moments, and hold what comes out against an undisturbed run.

    python -m tests.spark.chaos [--seeds 21] [--first-seed 0]

The run is a real spark-submit on a local cluster of two workers. Each seed chooses what dies, and when: the JVM of an
executor, a Python worker, or the driver in a stage. A driver that died is started again by the same command.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tests.reference import real_embeddings
from tests.spark.conftest import CONF, write_clips, write_parquet

ROOT = Path(__file__).parents[2]
STAGES = ("embeddings", "clustering", "placement", "screening", "matching", "decisions", "verification")
FLAGS = "--n-clusters 12 --eps-thresholds 0.1 0.01 --eps-to-extract 0.01 --max-block-rows 150 --files-per-partition 50"
VICTIMS = ("executor", "python worker", "driver")
CLUSTER = ("--master", "local-cluster[2,1,1024]", "--conf", "spark.executor.memory=1g")
_BUSY = 240  # seconds a run may take


def inputs(folder: Path) -> Path:
    """Clips of all sorts: real ones as files, copies, and some that are no clips."""
    ids, rows = real_embeddings()
    clips: dict[str, object] = {i: row[None] for i, row in zip(ids[:700], rows, strict=False)}
    clips |= {f"copy-{n}": rows[n % 20] for n in range(60)} | {f"bad-{n}": "text" for n in range(20)}
    return write_clips(folder / "iv2_embd", clips, {"torn.npy": b"", "_hidden.pickle": b"x"})


def table(folder: Path) -> Path:
    """The same as Parquet that is read where it lies, in two passes."""
    ids, rows = real_embeddings()
    return write_parquet(folder / "iv2_embd_parquet", ids, rows, files=8)


def start(source: Path, output: Path, log: Path, master: Sequence[str] = CLUSTER) -> subprocess.Popen[bytes]:
    """The job on a local cluster, its log in a file, in a process group of its own."""
    command = ["spark-submit", *master]
    for setting in (
        "spark.sql.shuffle.partitions=6",
        f"spark.local.dir={output}-local",
        f"spark.worker.dir={output}-workers",
        "spark.log.level=WARN",
    ):
        command += ["--conf", setting]
    command += [str(ROOT / "jobs" / "dedup.py"), "--input-embeddings-path", str(source), "--output-path", str(output)]
    python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603
            [*command, *FLAGS.split()],
            env={**os.environ, "SPARK_CONF_DIR": str(CONF), **python},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def processes(session: int) -> Iterator[tuple[int, str]]:
    """The processes of a run, with their command lines."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[3] == str(session):
                yield int(stat.parent.name), stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()


def kill_one(run: subprocess.Popen[bytes], victim: str, chance: random.Random) -> bool:
    """Kill a process of that kind with SIGKILL; whether there was one."""
    marks = {"executor": "CoarseGrainedExecutorBackend", "python worker": "pyspark.daemon", "driver": "dedup.py"}
    found = [pid for pid, command in processes(run.pid) if marks[victim] in command]
    if found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(found), signal.SIGKILL)
    return bool(found)


def kill_busy_worker(run: subprocess.Popen[bytes]) -> bool:
    """Kill a Python worker that is computing; whether there was one."""
    for pid, command in processes(run.pid):
        with contextlib.suppress(OSError):  # it may end by itself meanwhile
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if "pyspark.daemon" in command and state == "R":
                os.kill(pid, signal.SIGKILL)
                return True
    return False


def end(run: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    for pid, _ in processes(run.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.wait()


def wait_for(condition: Callable[[], bool], run: subprocess.Popen[bytes], seconds: float = _BUSY) -> bool:
    """Wait until a condition holds; false when the run ended before."""
    until = time.monotonic() + seconds
    while not condition():
        if run.poll() is not None or time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def finish(run: subprocess.Popen[bytes], log: Path) -> None:
    """Raises AssertionError, with the end of the log, when the run does not end well."""
    try:
        code = run.wait(_BUSY)
    except subprocess.TimeoutExpired:
        code = -1
        end(run)
    assert code == 0, f"exit code {code}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def strike(run: subprocess.Popen[bytes], log: Path, victim: str, stage: str, chance: random.Random) -> str:
    """Kill something in a stage; says what."""
    delay = chance.uniform(0, 1.5 if victim == "driver" else 3)
    begun = re.compile(rf"{stage} +started".encode())
    wait_for(lambda: bool(begun.search(log.read_bytes())), run)
    time.sleep(delay)
    there = wait_for(lambda: kill_one(run, victim, chance), run, 5)
    return f"{victim} killed {delay:.1f} s into {stage}" if there else f"{victim}: none to kill"


def disturbed(source: Path, output: Path, log: Path, strikes: Sequence[tuple[str, str]], seed: int) -> str:
    """A run in which victims are killed in stages, the driver last; says what happened."""
    chance = random.Random(seed)  # noqa: S311
    run = start(source, output, log)
    try:
        happened = ", ".join(strike(run, log, victim, stage, chance) for victim, stage in strikes)
        if "driver killed" in happened:
            run.wait(60)
            # Executors end by themselves a little later, as on any cluster; the next run does not wait for them.
            left = run
            run = start(source, output, log)
            finish(run, log)
            end(left)
        else:
            finish(run, log)
    finally:
        end(run)
    return happened


def results(output: Path) -> dict[str, pd.DataFrame]:
    """All that a run wrote, row for row, in one order."""
    folders = ds.partitioning(pa.schema([("eps", pa.string()), ("decision", pa.string())]), flavor="hive")
    tables = {"dedup": pq.read_table(output / "dedup", partitioning=folders).to_pandas()}
    names = ("clustering/assignments", "rejected", "extraction/kept_ids.parquet", "extraction/unique_ids_0.01.parquet")
    tables |= {name: pq.read_table(output / name).to_pandas() for name in names}
    tables["summary"] = pd.read_csv(output / "dedup_summary.csv")
    return {name: rows.sort_values(list(rows)).reset_index(drop=True) for name, rows in tables.items()}


def assert_same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    for name in one:
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True, obj=name)


def main() -> None:
    p = argparse.ArgumentParser(description="Kill parts of a run at random moments.")
    p.add_argument("--seeds", type=int, default=21)
    p.add_argument("--first-seed", type=int, default=0)
    args = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        whole: dict[Path, dict[str, pd.DataFrame]] = {}
        for n, source in enumerate((inputs(Path(folder)), table(Path(folder)))):
            output, log = Path(folder) / f"whole-{n}", Path(folder) / f"whole-{n}.log"
            finish(start(source, output, log), log)
            whole[source] = results(output)
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            source = list(whole)[seed % 2]
            output, log = Path(folder) / f"seed-{seed}", Path(folder) / f"seed-{seed}.log"
            began = time.monotonic()
            happened = disturbed(source, output, log, [(VICTIMS[seed % 3], STAGES[seed // 3 % len(STAGES)])], seed)
            assert_same(whole[source], results(output))
            print(
                f"seed {seed}: {source.name}: {happened}; the same rows, {time.monotonic() - began:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
