"""The command line: flags, their checks, and the frozen `Options` the job runs on."""

import argparse
import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NoReturn

from jobs import __version__
from jobs.errors import UsageError
from udfs.ranking import RankColumn


@dataclasses.dataclass(frozen=True)
class Options:
    """One run of the job; the fields are the flags."""

    input_embeddings_path: str
    output_path: str
    input_format: str
    id_column: str
    embedding_column: str
    files_per_partition: int
    max_rejected_fraction: float
    n_clusters: int | None
    centroids_path: str | None
    kmeans_sample_rows: int | str
    kmeans_workers: int | None
    match_scope: str
    max_guest_copies: float
    max_block_rows: int
    eps_thresholds: tuple[float, ...]
    eps_to_extract: float | None
    which_to_keep: str
    rank_by: tuple[RankColumn, ...]
    seed: int
    overwrite: bool
    engine: str

    @property
    def min_score(self) -> float:
        """The lowest score that counts at any threshold."""
        return 1.0 - max(self.eps_thresholds)

    @property
    def guest_eps(self) -> float | None:
        """The eps that cells need guests for; None where only pairs in one cluster count."""
        return max(self.eps_thresholds) if self.match_scope == "all" else None

    def fingerprint(self) -> dict[str, Any]:
        """What decides the result, as JSON values: the same in a rerun that goes on where a run stopped."""
        fields = dataclasses.asdict(self)
        for name in (
            "output_path",
            "overwrite",
            "files_per_partition",
            "max_rejected_fraction",
            "max_guest_copies",
            "max_block_rows",
            "engine",
            "kmeans_workers",
        ):
            del fields[name]
        fields["n_clusters"] = self.n_clusters or "auto"
        fields["eps_thresholds"] = list(self.eps_thresholds)
        fields["rank_by"] = [f"{c.name}:{'desc' if c.descending else 'asc'}" for c in self.rank_by]
        return fields


def eps_text(eps: float) -> str:
    """An eps as it stands in paths and tables: plain decimals, `0.00001` and not `1e-05`."""
    return format(Decimal(repr(eps)).normalize(), "f")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds `(default: …)` to each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, tuple) and action.default:
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action) if action.default else action.help


def parser() -> argparse.ArgumentParser:
    """All flags, grouped as the job's stages."""
    p = _Parser(prog="semdedup", description=_DESCRIPTION, formatter_class=_Help, allow_abbrev=False)
    p.add_argument("--version", action="version", version=f"spark-semdedup {__version__}")

    g = p.add_argument_group("input and output")
    g.add_argument(
        "--input-embeddings-path", required=True, metavar="URI",
        help="folder of one file per clip (.pickle, .pkl, .npy), Parquet, or a split pipeline's output root; "
        "any Hadoop URI (local, hdfs://, s3a://, …)",
    )  # fmt: skip
    g.add_argument(
        "--output-path", required=True, metavar="URI",
        help="folder for the results; the same flags again resume an interrupted run there",
    )  # fmt: skip
    g.add_argument("--overwrite", action="store_true", help="start afresh where an earlier run wrote results")
    g.add_argument(
        "--input-format", choices=("auto", "clips", "parquet"), default="auto",
        help="clips: one file per clip; parquet: a table; auto: found by looking",
    )  # fmt: skip
    g.add_argument("--id-column", default="id", metavar="NAME", help="Parquet column of the clip ids")
    g.add_argument(
        "--embedding-column", default="embedding", metavar="NAME",
        help="Parquet column of the embeddings, list<float> or list<double>",
    )  # fmt: skip
    g.add_argument(
        "--files-per-partition", type=_positive_int, default=1000, metavar="N",
        help="files one task reads; of Parquet at most N and at most spark.sql.files.maxPartitionBytes",
    )  # fmt: skip
    g.add_argument(
        "--max-rejected-fraction", type=_fraction, default=0.1, metavar="SHARE",
        help="stop before clustering when more than this share (0 to 1) of the clips is unusable, or of the bytes is "
        "in Parquet files that cannot be opened",
    )  # fmt: skip

    g = p.add_argument_group("clustering")
    g.add_argument(
        "--n-clusters", type=_clusters, default="auto", metavar="K",
        help="number of k-means clusters, or auto: the number that makes the work least; "
        "with --match-scope all it changes the time, and with hard and soft which clip of a group stays",
    )  # fmt: skip
    g.add_argument(
        "--kmeans-sample-rows", type=_sample_rows, default="auto", metavar="N",
        help="clips that k-means is trained on, all, or auto: 256 for each cluster; "
        "on the CPU it is trained by the driver, with at most 512 MiB of them as float32",
    )  # fmt: skip
    g.add_argument(
        "--centroids-path", metavar="URI",
        help="use these centroids (.npy, float32, clusters x dimension) instead of training; "
        "sets the number of clusters",
    )  # fmt: skip

    g = p.add_argument_group("engine")
    g.add_argument(
        "--engine", choices=("auto", "cpu", "gpu"), default="auto",
        help="what computes: gpu with CuPy and spark-rapids-ml on the GPUs that Spark offers, cpu with NumPy and "
        "FAISS; auto: gpu where there is one. Given the same centroids the results are the same",
    )  # fmt: skip
    g.add_argument(
        "--kmeans-workers", type=_positive_int, metavar="N",
        help="GPUs that train k-means together; without it all that spark.executor.instances and "
        "spark.executor.resource.gpu.amount make",
    )  # fmt: skip

    g = p.add_argument_group("matching and decisions")
    g.add_argument(
        "--match-scope", choices=("all", "cluster"), default="all",
        help="which pairs count: all of the dataset, or, as in SemDeDup and NeMo Curator, only those in one cluster",
    )  # fmt: skip
    g.add_argument(
        "--max-guest-copies", type=_non_negative, default=32.0, metavar="N",
        help="stop before matching when finding all pairs would take more than this many copies of each clip, "
        "estimated from the sample; a smaller eps or fewer clusters take fewer",
    )  # fmt: skip
    g.add_argument(
        "--max-block-rows", type=_positive_int, default=20000, metavar="N",
        help="clips a task compares with as many others at most: larger clusters are cut into blocks; a task holds "
        "about 2 x N x dimension x 20 bytes",
    )  # fmt: skip
    g.add_argument(
        "--eps-thresholds", type=_fraction, nargs="+", default=(0.01, 0.001), metavar="EPS",
        help="remove a clip when its cosine similarity with an earlier one is at least 1 - EPS (0 to 1)",
    )  # fmt: skip
    g.add_argument(
        "--eps-to-extract", type=_fraction, metavar="EPS",
        help="one of the thresholds: write the kept and the removed ids at this one to extraction/",
    )  # fmt: skip
    g.add_argument(
        "--which-to-keep", choices=("hard", "soft", "easy", "random"), default="hard",
        help="of similar clips keep the farthest from the centroid (hard), the nearest (soft, easy), "
        "or one by a seeded hash of its id (random)",
    )  # fmt: skip
    g.add_argument(
        "--rank-by", type=_rank_columns, default=(), metavar="COL:desc,…",
        help="Parquet columns that decide which clip stays, before --which-to-keep, e.g. "
        "quality:desc,duration:desc; nulls come last",
    )  # fmt: skip
    g.add_argument("--seed", type=_seed, default=42, metavar="N", help="of the sample, of k-means and of random")
    return p


_DESCRIPTION = "Remove near-duplicate clips from a dataset by their embeddings, on Apache Spark."


def parse(argv: Sequence[str] | None = None) -> Options:
    """Options from the command line; raises UsageError with one line that names the flag."""
    args = vars(parser().parse_args(argv))
    args["input_embeddings_path"] = args["input_embeddings_path"].rstrip("/") or "/"
    args["eps_thresholds"] = tuple(dict.fromkeys(args["eps_thresholds"]))
    args["which_to_keep"] = {"easy": "soft"}.get(args["which_to_keep"], args["which_to_keep"])
    options = Options(**args)
    if options.eps_to_extract is not None and options.eps_to_extract not in options.eps_thresholds:
        known = " ".join(map(eps_text, options.eps_thresholds))
        raise UsageError(
            f"argument --eps-to-extract: {eps_text(options.eps_to_extract)} is not one of the "
            f"--eps-thresholds ({known}): add it there or choose one of them"
        )
    return options


def _positive_int(text: str) -> int:
    value = _number(text, int, "a whole number of at least 1")
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(value)


def _clusters(text: str) -> int | None:
    return None if text == "auto" else _positive_int(text)


def _sample_rows(text: str) -> int | str:
    return text if text in ("auto", "all") else _positive_int(text)


def _non_negative(text: str) -> float:
    value = _number(text, float, "a number of at least 0")
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return float(value)


def _fraction(text: str) -> float:
    value = _number(text, float, "a number from 0 to 1")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return float(value) + 0.0  # -0.0 to 0.0


def _seed(text: str) -> int:
    value = _number(text, int, "a whole number")
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2147483647")
    return int(value)


def _number(text: str, kind: type[int] | type[float], legal: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {legal}") from None


def _rank_columns(text: str) -> tuple[RankColumn, ...]:
    columns = []
    for part in text.split(","):
        name, _, direction = part.rpartition(":")
        if not name or direction not in ("asc", "desc"):
            raise argparse.ArgumentTypeError(f"{part!r} is not COLUMN:asc or COLUMN:desc")
        columns.append(RankColumn(name, direction == "desc"))
    return tuple(columns)
