"""The floor: the job's work inside clusters, by the job's own functions, in one process without Spark."""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from jobs.kmeans import train
from jobs.planning import auto_clusters
from scripts.bench.data import read
from udfs.similarity import match_earlier
from udfs.sketches import principal_basis
from udfs.vectors import cosines, squared_norms, unit_rows

COORDINATES = 15
CHUNK = 16_384


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("input", type=Path)
    p.add_argument("output", type=Path)
    p.add_argument("--n-clusters", type=int, default=0)
    p.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.001])
    args = p.parse_args()

    ids, rows = read(args.input)
    k = args.n_clusters or auto_clusters(len(rows), rows.shape[1])
    rng = np.random.default_rng(0)
    sample = rows[rng.choice(len(rows), min(len(rows), 256 * k), replace=False)]
    centroids = train(sample, k, 0)
    x_sq = squared_norms(rows)
    c_sq = squared_norms(centroids)
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(centroids)
    home = np.empty(len(rows), np.int64)
    distance = np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):  # in chunks, so that no copy of everything is made
        part = slice(start, start + CHUNK)
        home[part] = index.search(unit_rows(rows[part], x_sq[part]), 1)[1][:, 0]
        here = np.arange(len(home[part]))
        distance[part] = 1 - cosines(rows[part], here, centroids, home[part], x_sq[part], c_sq)
    some = sample[:20_000]
    basis = np.ascontiguousarray(principal_basis(unit_rows(some, squared_norms(some)))[:, :COORDINATES])

    order = np.lexsort((-distance, home))
    ends = np.searchsorted(home[order], np.arange(k + 1))
    best = np.full(len(rows), -1, np.int64)
    score = np.full(len(rows), np.nan)

    def match(cell: int) -> None:
        members = order[ends[cell] : ends[cell + 1]]
        found, scores, _ = match_earlier(rows[members], 1 - max(args.eps), basis)
        best[members] = np.where(found >= 0, members[found], -1)
        score[members] = scores

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:  # threads over clusters, not in BLAS
        list(pool.map(match, range(k)))
    for eps in args.eps:
        removed = score >= 1 - eps
        args.output.mkdir(parents=True, exist_ok=True)
        table = {
            "id": ids, "cluster_id": home, "cosine_dist_to_cent": distance,
            "max_id": pa.array(ids[best], mask=best < 0), "cosine_sim_score": score, "removed": removed,
        }  # fmt: skip
        pq.write_table(pa.table(table), args.output / f"eps={eps:g}.parquet")


if __name__ == "__main__":
    main()
