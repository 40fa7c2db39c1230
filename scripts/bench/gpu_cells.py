"""The match function on cells on one GPU, against Curator's algorithm and the bare product of all pairs.

    python -m scripts.bench.gpu_cells [--embeddings embeddings.npy] [--rows 10000 50000 200000] [--dim 512 768]

All contenders get the same rows on the GPU and are timed there by turns, after a warm-up; medians count.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scripts.bench.data import grow
from scripts.bench.rivals import curator_match
from udfs.device import gpu_name, synchronize, to_gpu, to_host, use_gpu
from udfs.similarity import GPU_TILE_ROWS, match_sweeps
from udfs.sketches import principal_basis
from udfs.vectors import squared_norms, unit_rows

SAMPLE = Path(__file__).parents[2] / "tests" / "data" / "debian_synopses_f16.npy"
TILE = 8192  # rows of the bare product's tiles


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--embeddings", type=Path, default=SAMPLE, help=".npy of real embeddings that cells are grown from")
    p.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    p.add_argument("--dim", type=int, nargs="+", default=[512, 768], help="at least that of the embeddings")
    p.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.001])
    p.add_argument("--coordinates", type=int, default=47, help="of the screen, less than 128")
    p.add_argument("--repeats", type=int, default=5)
    args = p.parse_args()
    use_gpu(0, 1.0)
    print(f"{gpu_name()}; cells grown from {args.embeddings.name}, {args.coordinates} screen coordinates\n")
    contenders = ("match_sweeps", "Curator fp32", "Curator fp16", "bare half product fp16")
    rates = ("10^9 pairs/s", "screen's share of the product's rate")
    header = ("rows", "dimension", "eps", *(f"{name}, ms" for name in contenders), *rates, "decisions unlike Curator's")
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for rows in args.rows:
        for dim in args.dim:
            compare(cell(np.load(args.embeddings), rows, dim), args.eps, args.coordinates, args.repeats)


def cell(real: np.ndarray, rows: int, dim: int) -> np.ndarray:
    """(rows, dim) float32: of four times as many grown rows those nearest to one direction, turned into `dim` axes."""
    rng = np.random.default_rng(0)
    grown = grow(real, 4 * rows)
    nearest = rng.permutation(np.argpartition(-(grown @ grown.mean(axis=0)), rows)[:rows])
    axes = np.linalg.qr(rng.standard_normal((dim, real.shape[1])))[0].T.astype(np.float32)
    return np.ascontiguousarray(grown[nearest] @ axes)


def compare(rows: np.ndarray, eps: list[float], coordinates: int, repeats: int) -> None:
    """Print a line of the table for each eps."""
    n, dim = rows.shape
    sample = rows[:20_000]
    basis = to_gpu(np.ascontiguousarray(principal_basis(unit_rows(sample, squared_norms(sample)))[:, :coordinates]))
    x, everything, kinds = to_gpu(rows), np.arange(n), np.zeros(n, np.int64)
    unit = unit_rows(x, squared_norms(x))
    half = unit.astype(np.float16)
    for e in eps:
        turns = clock(
            repeats,
            lambda e=e: match_sweeps(x, 1 - e, basis, [(everything, everything)], kinds, GPU_TILE_ROWS),  # type: ignore[misc]
            lambda: curator_match(unit),
            lambda: curator_match(half),
            lambda: half_product(half),
        )
        ours, fp32, fp16, product = turns
        score = match_sweeps(x, 1 - e, basis, [(everything, everything)], kinds, GPU_TILE_ROWS)[1]
        differ = int(np.count_nonzero((score >= 1 - e) != (to_host(curator_match(unit)) >= 1 - e)))
        pairs = n * (n - 1) / 2
        width = -(-(coordinates + 1) // 16) * 16
        share = pairs * width / ours / (pairs * dim / product)
        times = (f"{t * 1e3:.2f} ({t / ours:.1f} x)" for t in (fp32, fp16, product))
        rates = (f"{pairs / ours / 1e9:.1f}", f"{share:.0%}")
        cells = (f"{n:,}", dim, f"{e:g}", f"{ours * 1e3:.2f}", *times, *rates, differ)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def half_product(half: np.ndarray) -> None:
    """The products of all pairs once, in half precision, thrown away."""
    for top in range(0, len(half), TILE):
        left = half[top : top + TILE]
        for start in range(0, top + 1, TILE):
            left @ half[start : start + TILE].T


def clock(repeats: int, *contenders: Callable[[], object]) -> list[float]:
    """Seconds of each, medians of turns after one to warm up."""
    turns: list[list[float]] = [[] for _ in contenders]
    for turn in range(repeats + 1):
        for contender, seconds in zip(contenders, turns, strict=True):
            synchronize()
            start = time.perf_counter()
            contender()
            synchronize()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in turns]


if __name__ == "__main__":
    main()
