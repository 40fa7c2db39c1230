"""Write made-up clip embeddings with planted near-duplicates at known cosines, and the list of what was planted.

The embeddings imitate real ones: topics of very different size around a common direction, and a spectrum that
falls off as a power law, so that a few directions carry most of the variance.
"""

import argparse
import pickle
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

COSINES = (1.0, 0.9995, 0.995, 0.97, 0.9)


def spectrum_like_rows(n: int, dim: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """n unit rows of dimension `dim`, (n, dim): a mean direction, topics, and power-law noise, rotated."""
    scale = np.arange(1, dim + 1) ** -0.4
    topics = max(2, n // 100)
    popularity = 1.0 / np.arange(1, topics + 1)
    topic = rng.choice(topics, size=n, p=popularity / popularity.sum())
    centers = rng.standard_normal((topics, dim)) * scale
    rows = 0.6 * centers[topic] + rng.standard_normal((n, dim)) * scale
    rows[:, 0] += 1.5
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    rows = rows @ rotation
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def near(row: NDArray[np.float64], toward: NDArray[np.float64], cosine: float) -> NDArray[np.float64]:
    """A unit row at the given cosine from `row` (d,), in the direction of another row."""
    aside = toward - (toward @ row) * row
    return np.asarray(cosine * row + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside))


def make(
    n: int, dim: int, duplicates: int, seed: int
) -> tuple[list[str], NDArray[np.float32], list[tuple[str, str, float]]]:
    """ids, embeddings (n, dim) float32, and (copy, original, cosine) of each planted duplicate."""
    rng = np.random.default_rng(seed)
    originals = spectrum_like_rows(n - duplicates, dim, rng)
    ids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)]
    chosen = rng.choice(len(originals), size=duplicates, replace=False)
    rows, planted = [originals], []
    for copy, original in enumerate(chosen):
        cosine = COSINES[copy % len(COSINES)]
        toward = originals[rng.integers(len(originals) - 1)] + 0.1 * rng.standard_normal(dim)
        rows.append(near(originals[original], toward, cosine)[None])
        planted.append((ids[len(originals) + copy], ids[original], cosine))
    matrix = np.concatenate(rows).astype(np.float32)
    exact = [n - duplicates + i for i in range(duplicates) if planted[i][2] == 1.0]
    matrix[exact] = matrix[chosen[[i - (n - duplicates) for i in exact]]]
    order = rng.permutation(n)
    return [ids[i] for i in order], matrix[order], planted


def write_clips(ids: list[str], matrix: NDArray[np.float32], folder: Path) -> None:
    """One pickle per clip with an array of shape (1, d), as splitting pipelines write them."""
    folder.mkdir(parents=True)
    for clip_id, row in zip(ids, matrix, strict=True):
        (folder / f"{clip_id}.pickle").write_bytes(pickle.dumps(row[None]))


def write_parquet(ids: list[str], matrix: NDArray[np.float32], folder: Path) -> None:
    """One Parquet file with `id` and `embedding` as list<float>."""
    folder.mkdir(parents=True)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    table = pa.table({"id": ids, "embedding": embedding.cast(pa.list_(pa.float32()))})
    pq.write_table(table, folder / "part-00000.parquet")


def main() -> None:
    """Write OUTPUT/iv2_embd or OUTPUT/iv2_embd_parquet, and OUTPUT/planted.parquet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("output", type=Path, help="folder to make")
    p.add_argument("--clips", type=int, default=3000, help="how many clips, planted ones included")
    p.add_argument("--duplicates", type=int, default=500, help="how many of them are planted near-duplicates")
    p.add_argument("--dim", type=int, default=256, help="dimension of the embeddings")
    p.add_argument("--layout", choices=("clips", "parquet"), default="clips", help="one pickle per clip, or a table")
    p.add_argument("--seed", type=int, default=0, help="of everything random")
    args = p.parse_args()
    if not 0 <= 2 * args.duplicates <= args.clips:
        p.error("--duplicates must be between 0 and half of --clips")
    ids, matrix, planted = make(args.clips, args.dim, args.duplicates, args.seed)
    if args.layout == "clips":
        write_clips(ids, matrix, args.output / "iv2_embd")
    else:
        write_parquet(ids, matrix, args.output / "iv2_embd_parquet")
    copy, original, cosine = zip(*planted, strict=True) if planted else ((), (), ())
    truth = pa.table({"id": list(copy), "original": list(original), "cosine": list(cosine)})
    pq.write_table(truth, args.output / "planted.parquet")


if __name__ == "__main__":
    main()
