"""The stages of one run: each is done once, leaves a record in run.json, and is skipped when the run is resumed.

run.json is there from the beginning. Its `state` is `complete` only after the last stage, and a stage's only after
all that the stage wrote. What is not marked so is no result, whatever files there are: object stores cannot make a
folder appear at once.
"""

import dataclasses
import logging
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyspark

from jobs import __version__
from jobs.errors import JobError
from jobs.lease import FOLDER, Lease
from jobs.listing import Listing
from jobs.options import Options
from jobs.redaction import redacted
from jobs.sources import OUTPUTS, Source
from jobs.storage import Storage

log = logging.getLogger(__name__)

JOB, COMPLETE, RUNNING = "spark-semdedup", "complete", "running"

Record = dict[str, Any]


class Run:
    """Where a run stands: its output folder, its input, and the records of its complete stages."""

    def __init__(self, storage: Storage, output_path: str, source: Source, lease: Lease, manifest: Record) -> None:
        self.storage = storage
        self.output_path = output_path.rstrip("/")
        self.source = source
        self.read_by_python = 0  # bytes that tasks have read past Spark, which does not count them
        self._lease = lease
        self._manifest = manifest

    @property
    def records(self) -> dict[str, Record]:
        """The records of the complete stages, by name."""
        return {name: record for name, record in self._manifest["stages"].items() if record["state"] == COMPLETE}

    @property
    def input(self) -> Record:
        """The listing of the input as the run began."""
        listed: Record = self._manifest["input"]
        return listed

    def path(self, *parts: str) -> str:
        """A path of the output tree."""
        return "/".join((self.output_path, *parts))

    def work(self, name: str) -> str:
        """A path for an intermediate table."""
        return self.path("_work", name)

    def stage(self, name: str, work: Callable[[], Record]) -> Record:
        """The record of a stage: of an earlier run if it finished there, else of doing it now."""
        if name in self.records:
            log.info("%-12s already done", name)
            return self.records[name]
        log.info("%-12s started", name)
        self._note(name, {"state": RUNNING, "started": _now()})
        start, before, by_python = time.monotonic(), self.storage.traffic(), self.read_by_python
        record = {"state": COMPLETE, **work(), "seconds": round(time.monotonic() - start, 3)}
        read, shuffled = (now - then for now, then in zip(self.storage.traffic(), before, strict=True))
        record["bytes_read"] = read + self.read_by_python - by_python
        record["bytes_shuffled"] = shuffled
        self._note(name, record)
        log.info("%-12s %6.1f s  %s", name, record["seconds"], _in_short(record))
        return record

    def start_afresh(self) -> None:
        """Forget all stages, then remove all that the job writes, in this order: what is there is no result now."""
        self._manifest["stages"] = {}
        self._save()
        for name in OUTPUTS:
            self.storage.delete(self.path(name))

    def finish(self) -> None:
        """Mark the run as complete, and remove `_work/`; a run that was complete stays as it is."""
        if self._manifest["state"] != COMPLETE:
            self._manifest |= {"state": COMPLETE, "finished": _now()}
            self._save()
        self.storage.delete(self.path("_work"))

    def _note(self, stage: str, record: Record) -> None:
        self._manifest["stages"][stage] = record
        self._save()

    def _save(self) -> None:
        """Write run.json, after a second copy: if the driver dies in the middle of one, the other is whole."""
        self._lease.check()
        manifest = redacted(self._manifest)
        self.storage.write_json(self.work("run.json"), manifest)
        self.storage.write_json(self.path("run.json"), manifest)


def open_run(storage: Storage, options: Options, source: Source, listing: Listing, lease: Lease) -> Run:
    """A new run, or the one in --output-path to go on with.

    Raises JobError when the folder holds something else, or, without --overwrite, another run or one of other input.
    """
    versions = {JOB: __version__, "pyspark": pyspark.__version__, "python": platform.python_version()}
    fresh = {
        "job": JOB,
        "state": RUNNING,
        "started": _now(),
        "options": redacted(options.fingerprint()),
        "versions": versions,
        "input": dataclasses.asdict(listing),
        "stages": {},
    }
    output = options.output_path.rstrip("/")
    before = _manifest(storage, output)
    if before is None:
        _refuse_foreign(storage, output, options.overwrite)
    elif not options.overwrite:
        known = Run(storage, output, source, lease, before)
        if known.records:  # without a complete stage there is nothing to go on with
            _compare(before, fresh, output, options)
            return known
    run = Run(storage, output, source, lease, fresh)
    run.start_afresh()
    return run


def _manifest(storage: Storage, output: str) -> Record | None:
    """What run.json says, if it is of this job; of its two copies the one that is whole."""
    copies = (storage.read_json(f"{output}/{name}") for name in ("run.json", "_work/run.json"))
    fields = {"state", "options", "versions", "input", "stages"}
    return next((copy for copy in copies if copy and copy.get("job") == JOB and copy.keys() >= fields), None)


def _refuse_foreign(storage: Storage, output: str, overwrite: bool) -> None:
    """Raises JobError for a folder that holds no run of this job: nothing of somebody else's is to be removed."""
    there = [entry.name for entry in storage.entries(output, 1000) if entry.name != FOLDER]
    if "_work" in there and {entry.name for entry in storage.entries(f"{output}/_work", 2)} <= {"run.json"}:
        there.remove("_work")  # of a run that died before it could write run.json itself
    ours = [name for name in there if name in ("run.json", *OUTPUTS)]
    if ours:
        raise JobError(
            f"--output-path {output} holds {', '.join(ours)}, but no run of this job wrote that: move it away, or "
            "choose another folder"
        )
    if there and not overwrite:
        raise JobError(
            f"--output-path {output} is not empty ({', '.join(there[:3])}{', …' * (len(there) > 3)}) and holds no run "
            "of this job: choose another folder, or give --overwrite to write beside what is there"
        )


def _compare(before: Record, now: Record, output: str, options: Options) -> None:
    """Raises JobError, which names the difference, when the run in the output folder is not the one asked for."""
    advice = "choose another folder, or start it afresh with --overwrite"
    for name, value in now["options"].items():
        was = before["options"].get(name)
        if was != value:
            raise JobError(
                f"--output-path {output} holds a run with other options (--{name.replace('_', '-')} was {was}, "
                f"now {value}): {advice}"
            )
    was, value = before["versions"].get(JOB), now["versions"][JOB]
    if was != value and before["state"] != COMPLETE:
        raise JobError(f"--output-path {output} holds a run of {JOB} {was}, this is {value}: {advice}")
    if before["input"] != now["input"]:
        raise JobError(f"{changed_input(options.input_embeddings_path, before['input'], now['input'])}: {advice}")


def changed_input(path: str, before: Record, now: Record) -> str:
    """What is to be said of an input that is not what it was when the run began."""
    counts = [f"{each['files']} files of {each['bytes']} bytes" for each in (before, now)]
    how = f"from {counts[0]} to {counts[1]}" if counts[0] != counts[1] else "in names or times of modification"
    return f"--input-embeddings-path {path} has changed since the run in --output-path began, {how}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _in_short(record: Record) -> str:
    """The counts of a record, for a log line."""
    counts = [f"{k} {v:,}" for k, v in record.items() if isinstance(v, int) and not isinstance(v, bool)]
    return record.get("skipped") or ", ".join(counts)
