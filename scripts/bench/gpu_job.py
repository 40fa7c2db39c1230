"""The whole job on this machine's GPUs: rows per second, by stage.

python -m scripts.bench.gpu_job [--embeddings embeddings.npy] [--rows 1000000 5000000] [--work DIR]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from scripts.bench import data
from scripts.bench.gpu_cells import SAMPLE
from scripts.bench.processes import ROOT, timed


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--embeddings", type=Path, default=SAMPLE, help=".npy of real embeddings that rows are grown from")
    p.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    p.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "semdedup-gpu", help="for data and results"
    )
    p.add_argument("--engine", default="gpu")
    args = p.parse_args()
    real = np.load(args.embeddings)
    stages = ("embeddings", "clustering", "placement", "screening", "matching", "decisions")
    header = ("rows", "dimension", "seconds", "rows/s", *stages)
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for rows in args.rows:
        source, out = args.work / f"in-{rows}", args.work / f"out-{rows}"
        if not source.exists():
            data.write(data.grow(real, rows), source.with_suffix(".part"), files=64)
            source.with_suffix(".part").rename(source)
        paths = ["--input-embeddings-path", str(source), "--output-path", str(out), "--overwrite"]
        seconds = timed([sys.executable, str(ROOT / "jobs/dedup.py"), *paths, "--engine", args.engine])
        record = json.loads((out / "run.json").read_text())["stages"]
        spent = (f"{record[stage]['seconds']:.1f}" for stage in stages)
        print(
            f"| {rows:,} | {real.shape[1]} | {seconds:.1f} | {rows / seconds:,.0f} | {' | '.join(spent)} |", flush=True
        )


if __name__ == "__main__":
    main()
