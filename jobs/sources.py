"""Find the embeddings at --input-embeddings-path, and tell in which format they are."""

import dataclasses
import re
from collections.abc import Iterable

from jobs.errors import JobError
from jobs.options import Options
from jobs.storage import Storage
from udfs import decode

# Everything this job writes below --output-path beside run.json, and so all that --overwrite removes.
OUTPUTS = ("dedup", "dedup_summary.csv", "clustering", "extraction", "rejected", "_work")

_LOOK_AT = 1000  # entries of a folder that decide its format
_SPLIT_OUTPUT_FOLDER = re.compile(r".+_embd(_.+)?")  # iv2_embd, ce1_embd_256p_parquet, …


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the embeddings are, and in which format: `clips` or `parquet`."""

    path: str
    format: str


def locate(storage: Storage, options: Options) -> Source:
    """Find the embeddings at --input-embeddings-path, or in the split pipeline's output root there.

    Raises JobError when nothing is there, when it is not clear which files are meant, and when --output-path is a
    file, or lies so that reading and writing would get in each other's way.
    """
    source = _look(storage, options.input_embeddings_path, options.input_format)
    output = options.output_path.rstrip("/")
    if storage.is_file(output):
        raise JobError(f"--output-path {output} is a file: choose a folder")
    if storage.lies_in(output, source.path):
        raise JobError(
            f"--output-path {output} lies inside the embeddings at {source.path}: "
            "the next run would read the results as input; choose a folder elsewhere"
        )
    for flag, path in (("--input-embeddings-path", source.path), ("--centroids-path", options.centroids_path)):
        for name in OUTPUTS:
            if path and storage.lies_in(path, f"{output}/{name}"):
                raise JobError(
                    f"{flag} {path} lies in {output}/{name}, which the job writes anew: move it, or choose another "
                    "--output-path"
                )
    return source


def _look(storage: Storage, path: str, input_format: str) -> Source:
    flag = f"--input-embeddings-path {path}"
    if not storage.exists(path):
        raise JobError(f"{flag} does not exist: check the path, its scheme and your access to it")
    if input_format != "auto":
        return Source(path, input_format)
    if storage.is_file(path):
        formats = _formats([path])
    else:
        entries = storage.entries(path, _LOOK_AT)
        formats = _formats(entry.name for entry in entries if not entry.is_dir)
        folders = [entry.name for entry in entries if entry.is_dir and entry.name[0] not in "_."]
        split_output = [name for name in folders if _SPLIT_OUTPUT_FOLDER.fullmatch(name)]
        if split_output and not formats:
            return _look(storage, f"{path}/{_only_model(flag, split_output)}", input_format)
        for name in [] if formats else folders:  # one level down: date=…/part-0.parquet, 00/clip.npy
            below = storage.entries(f"{path}/{name}", _LOOK_AT)
            formats = _formats(entry.name for entry in below if not entry.is_dir)
            if formats:
                break
    if not formats:
        suffixes = ", ".join((*decode.SUFFIXES, ".parquet"))
        raise JobError(f"{flag} holds no embeddings: looked for files ending in {suffixes}")
    if len(formats) > 1:
        raise JobError(f"{flag} holds both clip files and Parquet: choose with --input-format clips or parquet")
    return Source(path, formats.pop())


def _formats(names: Iterable[str]) -> set[str]:
    suffixes = {f".{name.rsplit('.', 1)[-1]}" for name in names if name[0] not in "_."}
    clips = {"clips"} if suffixes & set(decode.SUFFIXES) else set()
    return clips | ({"parquet"} if ".parquet" in suffixes else set())


def _only_model(flag: str, folders: list[str]) -> str:
    """The folder of the one embedding model there is; Parquet where it is there in both formats."""
    if len({name.removesuffix("_parquet") for name in folders}) > 1:
        raise JobError(f"{flag} holds embeddings of several models: give the path of one of {', '.join(folders)}")
    return max(folders, key=lambda name: name.endswith("_parquet"))
