"""The plan: how many clusters, how many screen coordinates, one pass or two, from costs measured on one core.

The clusters are part of the result of `hard` and `soft`, so their number depends on the input alone; the rest only
decides the time.
"""

import dataclasses
import math

import numpy as np

from jobs.options import Options
from udfs.cells import Placement, bordering_pairs
from udfs.sketches import coordinate_margin, coordinates
from udfs.vectors import Doubles, Indices, Matrix

# Nanoseconds of one core, measured on an AMD EPYC server with AVX2. Ratios are what matters.
_MULTIPLY = 0.022  # a multiplication and an addition of a float32 matrix product
_LOOK = 0.5  # at one element of a product that is in the cache
_SCORE = 1.0  # a coordinate of a pair in float64, with fetching it
_SHUFFLE_ROW = 1500.0  # a row through shuffle, sort and Arrow
_SHUFFLE_BYTE = 15.0
_READ_BYTE = 4.0
_PASS = 4e9  # what a pass costs however few the rows

_COORDINATES = (15, 31, 47, 63, 95, 127)  # m + 1 a multiple of 16 suits the hardware
_TYPICAL_COORDINATES = 15
_TRAINING_PASSES = 6  # of all sampled rows: the iterations, and seeding
_DRIVER = 2  # times the cost of work that only the driver does
_SAMPLE_PAIRS = 4_000_000
_ROWS_PER_CLUSTER = 256  # that train k-means, unless told otherwise

_SAMPLE_BYTES = 512 << 20  # of float32 on the driver: half of spark.driver.maxResultSize's default
LOOK_AT = 20_000  # clips that the basis and the estimates are made from


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to match. The fractions are estimates from the sample."""

    screen_coordinates: int  # m; 0: no screen
    two_passes: bool  # sketches first, then the embeddings of survivors
    surviving_fraction: float  # of the clips, after the screen
    pairs_per_clip: float


def auto_clusters(rows: int, dim: int) -> int:
    """The number of clusters k that makes the work on n clips least.

    Placing costs n k a; screening n (n / k) (1/2 + g) b, where guests add about g = 1; and k-means, whose sample
    grows with k, 256 k (k a iterations + what moving a row to the driver costs).
    """
    per_centroid = dim * _MULTIPLY + 2 * _LOOK
    per_pair = (_TYPICAL_COORDINATES + 1) * _MULTIPLY + _LOOK

    def cost(k: int) -> float:
        training = _ROWS_PER_CLUSTER * k * (k * per_centroid * _TRAINING_PASSES + 4 * dim * _SHUFFLE_BYTE)
        return rows * k * per_centroid + rows * rows / k * 1.5 * per_pair + _DRIVER * training

    few = max(1, rows // 16)
    return min((min(few, round(1.1**n)) for n in range(120)), key=cost)


def training_rows(rows: int, clusters: int, options: Options, dim: int, gpu: bool) -> int:
    """How many of so many clips train k-means; on GPUs they need not fit the driver."""
    asked = options.kmeans_sample_rows
    wanted = rows if asked == "all" else clusters * _ROWS_PER_CLUSTER if asked == "auto" else int(asked)
    return min(wanted, rows) if gpu else min(wanted, max(_SAMPLE_BYTES // (4 * dim), clusters))


def look_rows(dim: int) -> int:
    """How many other clips to sample, to estimate from."""
    return min(LOOK_AT, _SAMPLE_BYTES // (4 * dim))


def make_plan(unit: Matrix, placed: Placement, basis: Doubles, rows: int, min_score: float, seed: int) -> Plan:
    """The cheapest plan for `rows` clips of which the unit rows (n, d), placed with `near`, are a sample.

    basis: (d, d) float64.
    """
    n, dim = unit.shape
    home, copies = placed.home, placed.guests_per_row
    row_bytes = 4 * dim  # of one packed embedding
    share = min(1.0, n / rows)
    sizes = np.bincount(home)
    at_home = float(np.sum(sizes.astype(np.float64) ** 2)) / n / share
    matched, screened = at_home * (0.5 + copies), at_home / 2 + bordering_pairs(placed) / n / share
    cells = _some_cells(home, sizes, seed)
    plans = []
    for m in (0, *(m for m in _COORDINATES if m < dim)):
        pair_share, once_share, more_share = _survival(unit, cells, np.ascontiguousarray(basis[:, :m]), min_score)
        # One candidate in the sample is likely one of its few; with several a clip is in a group, and counts as seen.
        surviving = min(1.0, once_share / share + more_share)
        look = (m + 1) * _MULTIPLY + _LOOK
        full = dim * _MULTIPLY + 4 * _LOOK
        direct = matched * (min(look + pair_share * dim * _SCORE, look + full) if m else full)
        one_pass = (1 + copies) * _row_cost(row_bytes) + direct
        plans.append((one_pass, Plan(m, False, surviving, matched)))
        if m:
            sketches = (1 + copies) * _row_cost(2 * (m + 1)) + screened * look
            two_passes = sketches + row_bytes * _READ_BYTE + surviving * one_pass + _PASS / rows
            plans.append((two_passes, Plan(m, True, surviving, screened)))
    return min(plans, key=lambda priced: priced[0])[1]


def _row_cost(payload: int) -> float:
    return _SHUFFLE_ROW + (payload + 60) * _SHUFFLE_BYTE


def _some_cells(home: Indices, sizes: Indices, seed: int) -> list[Indices]:
    """The sampled rows of some cells, with no more than _SAMPLE_PAIRS pairs in all."""
    order = np.argsort(home, kind="stable")
    ends = np.cumsum(sizes)
    left = _SAMPLE_PAIRS
    chosen = []
    for cell in np.random.default_rng(seed).permutation(len(sizes)):
        rows = order[ends[cell] - sizes[cell] : ends[cell]][: math.isqrt(left)]
        left -= len(rows) ** 2
        if len(rows) > 1:
            chosen.append(rows)
    return chosen


def _survival(unit: Matrix, cells: list[Indices], basis: Doubles, min_score: float) -> tuple[float, float, float]:
    """The share of pairs whose bound reaches `min_score`, and of rows with one such pair, and with more."""
    floor = min_score - coordinate_margin(basis.shape[1])
    hits = pairs = once = more = rows = 0
    for cell in cells:
        x = coordinates(unit[cell], basis)
        hit = x @ x.T >= floor
        np.fill_diagonal(hit, False)
        hits += int(hit.sum())
        candidates = hit.sum(axis=1)
        once += int((candidates == 1).sum())
        more += int((candidates > 1).sum())
        pairs += len(cell) * (len(cell) - 1)
        rows += len(cell)
    return hits / max(pairs, 1), once / max(rows, 1), more / max(rows, 1)
