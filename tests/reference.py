"""What the tests hold the job against: brute force in float64, written independently of the job's own code."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"


def f32(values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def f64(values: object) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def real_embeddings() -> tuple[list[str], NDArray[np.float16]]:
    """1,200 ids and their embeddings (1200, 384)."""
    return (DATA / "debian_synopses_ids.txt").read_text().split(), np.load(DATA / "debian_synopses_f16.npy")


def score(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """The cosine of two vectors, clipped to [-1, 1]."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    return float(np.clip(cosine, -1, 1))


def brute_force(vectors: NDArray[np.floating], min_score: float) -> tuple[list[int], list[float | None]]:
    """The match of each row, in rank order: the earlier row with the highest score, of equal ones the earliest."""
    x = vectors.astype(np.float64)
    norms = (x * x).sum(axis=1)
    matches: list[int] = []
    scores: list[float | None] = []
    for i in range(len(x)):
        cosine = np.clip((x[:i] * x[i]).sum(axis=1) / np.sqrt(norms[:i] * norms[i]), -1, 1)
        best = cosine.max(initial=-2.0)
        matches.append(int(cosine.argmax()) if best >= min_score else -1)
        scores.append(float(best) if best >= min_score else None)
    return matches, scores
