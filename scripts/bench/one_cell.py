"""The match function on one cell, against the bare product of all its pairs and against Curator's algorithm."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scripts.bench.rivals import curator_match
from udfs.similarity import match_earlier
from udfs.sketches import principal_basis
from udfs.vectors import squared_norms, unit_rows

ROWS, COORDINATES, TILE = 15_000, 15, 1024


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("embeddings", type=Path, help=".npy")
    p.add_argument("--repeats", type=int, default=3)
    args = p.parse_args()
    real = np.load(args.embeddings).astype(np.float32)
    nearest = np.argsort(-(real @ real.mean(axis=0)))[:ROWS]  # to one direction, as in a cluster
    rows = np.ascontiguousarray(real[np.random.default_rng(0).permutation(nearest)])
    unit = unit_rows(rows, squared_norms(rows))
    sample = real[:20_000]
    basis = np.ascontiguousarray(principal_basis(unit_rows(sample, squared_norms(sample)))[:, :COORDINATES])

    def half_product() -> None:
        for top in range(0, len(unit), TILE):
            for left in range(0, top + 1, TILE):
                unit[top : top + TILE] @ unit[left : left + TILE].T

    print("| eps | match_earlier | bare half-matrix sgemm | Curator's algorithm | decisions that differ |")
    print("| --- | --- | --- | --- | --- |")
    for eps in (0.1, 0.01, 0.001):
        turns: list[list[float]] = [[], [], []]
        for _ in range(args.repeats):
            turns[0].append(clock(lambda eps=eps: match_earlier(rows, 1 - eps, basis)))  # type: ignore[misc]
            turns[1].append(clock(half_product))
            turns[2].append(clock(lambda: curator_match(unit)))
        ours, product, curator = (statistics.median(seconds) for seconds in turns)
        differ = int(((match_earlier(rows, 1 - eps, basis)[1] >= 1 - eps) != (curator_match(unit) >= 1 - eps)).sum())
        print(
            f"| {eps:g} | {ours:.3f} | {product:.3f} ({product / ours:.1f} x) | "
            f"{curator:.3f} ({curator / ours:.1f} x) | {differ} of {len(rows):,} |"
        )


def clock(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
