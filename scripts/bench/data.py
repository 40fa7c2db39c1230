"""Benchmark data: Parquet of embeddings, grown from real ones with their own spectrum."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NEAR_DUPLICATES = 0.1  # of the clips, at 1 - cosine from 1e-5 to 2e-2


def grow(real: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """(n, d) float32 unit rows: real ones moved by differences of real ones, and near-duplicates of those."""
    rng = np.random.default_rng(seed)
    real = _unit(real.astype(np.float32))
    copies = int(n * NEAR_DUPLICATES)
    out = np.empty((n, real.shape[1]), np.float32)
    for start in range(0, n - copies, 50_000):
        stop = min(start + 50_000, n - copies)
        i, j, k = rng.integers(len(real), size=(3, stop - start))
        out[start:stop] = _unit(real[i] + 0.7 * (real[j] - real[k]))
    source = rng.integers(n - copies, size=copies)
    i, j = rng.integers(len(real), size=(2, copies))
    eps = 10 ** rng.uniform(-5, np.log10(0.02), size=(copies, 1)).astype(np.float32)
    out[n - copies :] = _unit(out[source] + _unit(real[i] - real[j] + np.float32(1e-9)) * np.sqrt(2 * eps))
    return out[rng.permutation(n)]


def skew(real: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Grown rows of which half are one group: four fifths of it bit-identical, the rest nearly so."""
    rng = np.random.default_rng(seed)
    out = grow(real, n, seed)
    identical, near = 2 * n // 5, n // 10
    out[:identical] = out[0]
    noise = rng.standard_normal((near, out.shape[1])).astype(np.float32)
    out[identical : identical + near] = _unit(out[0] + np.float32(0.01) * _unit(noise))
    return out[rng.permutation(n)]


def write(rows: np.ndarray, folder: Path, files: int = 16) -> int:
    """Write id, embedding as list<float>; returns the bytes of the embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        values = pa.array(rows[part].astype(np.float32).reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(values, rows.shape[1]).cast(pa.list_(pa.float32()))
        ids = pa.array([f"clip-{i:09d}" for i in part])
        pq.write_table(pa.table({"id": ids, "embedding": lists}), folder / f"part-{number:05d}.parquet")
    return rows.size * 4


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and embeddings (n, d) float32."""
    table = pq.read_table(folder)
    lists = table["embedding"].combine_chunks()
    ids = table["id"].to_numpy()
    return ids, lists.flatten().to_numpy().reshape(len(ids), -1)


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return unit
