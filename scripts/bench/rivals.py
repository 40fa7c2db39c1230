"""What people use today, each as plainly as its own documentation shows it: one process, one result file.

Every rival writes result.npz: `ids` in its own order of preference, earliest first, and `removed` at each eps.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.data import read


def save(output: Path, ids: np.ndarray, removed: dict[float, np.ndarray]) -> None:
    """ids (n,) in order; removed: (n,) flags by eps."""
    output.mkdir(parents=True, exist_ok=True)
    flags = {f"removed_{eps:g}": flag for eps, flag in removed.items()}
    arrays: dict[str, Any] = {"ids": ids.astype(str), **flags}
    np.savez(output / "result.npz", **arrays)


def curator_match(rows: np.ndarray, batch: int = 1024) -> np.ndarray:
    """NeMo Curator's pairwise_cosine_similarity_batched: for each row the highest cosine with an earlier one.

    All rows against a batch of columns, the upper triangle of it, the maximum of each column; by NumPy, or by CuPy for
    rows on a GPU.
    """
    best = np.zeros(len(rows), np.float32, like=rows)
    for start in range(0, len(rows), batch):
        product = rows @ rows[start : start + batch].T
        product = np.triu(product, k=1 - start)
        best[start : start + batch] = product.max(axis=0)
    return best


def curator(source: Path, output: Path, eps: list[float], centroids: Path, assignments: Path) -> None:
    """Curator's matching within given clusters: hard order, float32."""
    import pandas as pd

    ids, rows = read(source)
    placed = pd.read_parquet(assignments).set_index("id").loc[ids]
    centers = np.load(centroids)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    home = placed["cluster_id"].to_numpy()
    distance = 1 - np.einsum("ij,ij->i", unit, centers[home]) / np.linalg.norm(centers[home], axis=1)
    order = np.lexsort((-distance, home))
    best = np.zeros(len(ids), np.float32)
    for members in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        best[members] = curator_match(np.ascontiguousarray(unit[members]))
    global_order = np.argsort(-distance, kind="stable")
    save(output, ids[global_order], {e: best[global_order] >= 1 - e for e in eps})


def semhash(source: Path, output: Path, eps: list[float]) -> None:
    """SemHash.self_deduplicate on given embeddings at the largest eps, and its rethreshold for the others."""
    from semhash import SemHash

    ids, rows = read(source)
    records = ids.tolist()
    number = {i: n for n, i in enumerate(records)}

    class Given:
        """The encoder that SemHash asks for."""

        def encode(self, inputs: Any, **_: Any) -> np.ndarray:
            taken: np.ndarray = rows[[number[i] for i in inputs]]
            return taken

    result = SemHash.from_embeddings(rows, records, model=Given()).self_deduplicate(threshold=1 - max(eps))
    removed = {}
    for e in sorted(eps, reverse=True):
        result.rethreshold(1 - e)
        kept = set(result.selected)
        removed[e] = np.array([i not in kept for i in records])
    save(output, ids, removed)


def faiss_range(source: Path, output: Path, eps: list[float]) -> None:
    """FAISS brute force: all pairs above the threshold by range_search, in float32."""
    import faiss

    ids, rows = read(source)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    best = np.zeros(len(ids), np.float32)
    for start in range(0, len(ids), 4096):
        limits, scores, columns = index.range_search(unit[start : start + 4096], 1 - max(eps))[0:3]
        later = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits.astype(np.int64)))
        earlier = columns < later
        np.maximum.at(best, later[earlier], scores[earlier])
    save(output, ids, {e: best >= 1 - e for e in eps})


def textbook(source: Path, output: Path, eps: list[float], clusters: int) -> None:
    """The Spark job one writes first: MLlib k-means, array columns, an n x n matrix in applyInPandas."""
    import pandas as pd
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F

    spark = SparkSession.builder.appName("textbook").getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    clips = spark.read.parquet(str(source)).withColumn("features", array_to_vector(F.col("embedding")))
    model = KMeans(k=clusters, seed=1, maxIter=20).fit(clips)
    assigned = model.transform(clips).select("id", "embedding", "prediction")

    def match(cell: pd.DataFrame) -> pd.DataFrame:
        rows = np.stack(cell["embedding"].to_list()).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        best = np.triu(rows @ rows.T, k=1).max(axis=0)
        return pd.DataFrame({"id": cell["id"], "best": best.astype(np.float64), "cell": cell["prediction"]})

    found = assigned.groupBy("prediction").applyInPandas(match, "id string, best double, cell int")
    found.write.mode("overwrite").parquet(str(output / "matches"))
    spark.stop()
    table = pd.read_parquet(output / "matches")
    save(output, table["id"].to_numpy(), {e: table["best"].to_numpy() >= 1 - e for e in eps})


def mllib_lsh(source: Path, output: Path, eps: list[float]) -> None:
    """MLlib's BucketedRandomProjectionLSH.approxSimilarityJoin of the unit vectors with themselves."""
    import pandas as pd
    from pyspark.ml.feature import BucketedRandomProjectionLSH, Normalizer
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F

    spark = SparkSession.builder.appName("lsh").getOrCreate()
    clips = spark.read.parquet(str(source)).select("id", array_to_vector(F.col("embedding")).alias("raw"))
    clips = Normalizer(inputCol="raw", outputCol="features").transform(clips).select("id", "features").cache()
    radius = float(np.sqrt(2 * max(eps)))
    hashing = BucketedRandomProjectionLSH(
        inputCol="features", outputCol="hashes", bucketLength=2 * radius, numHashTables=3, seed=1
    )
    model = hashing.fit(clips)
    pairs = model.approxSimilarityJoin(clips, clips, radius, "distance")
    pairs = pairs.filter(F.col("datasetA.id") < F.col("datasetB.id"))
    found = pairs.groupBy(F.col("datasetB.id").alias("id")).agg(F.min("distance").alias("distance"))
    found.write.mode("overwrite").parquet(str(output / "matches"))
    spark.stop()
    ids = np.sort(read(source)[0])
    distance = pd.read_parquet(output / "matches").set_index("id")["distance"].reindex(ids, fill_value=9.0).to_numpy()
    save(output, ids, {e: distance**2 / 2 <= e for e in eps})


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("rival", choices=("curator", "semhash", "faiss-range", "textbook", "mllib-lsh"))
    p.add_argument("source", type=Path)
    p.add_argument("output", type=Path)
    p.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.001])
    p.add_argument("--clusters", type=int, default=100)
    p.add_argument("--run", type=Path, help="a finished run of the job, for its clusters")
    args = p.parse_args()
    os.environ.setdefault("PYARROW_IGNORE_TIMEZONE", "1")
    if args.rival == "curator":
        files = (args.run / "clustering/centroids.npy", args.run / "clustering/assignments")
        curator(args.source, args.output, args.eps, *files)
    elif args.rival == "semhash":
        semhash(args.source, args.output, args.eps)
    elif args.rival == "faiss-range":
        faiss_range(args.source, args.output, args.eps)
    elif args.rival == "textbook":
        textbook(args.source, args.output, args.eps, args.clusters)
    else:
        mllib_lsh(args.source, args.output, args.eps)


if __name__ == "__main__":
    main()
