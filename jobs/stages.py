"""The stages of one run: each is done once, leaves a record, and is skipped when the run is resumed.

While a run is under way its state lives in `_work/`: options.json, the intermediate tables, and one record per
complete stage, written last. At the end all of it becomes run.json and `_work/` goes.
"""

import logging
import platform
import time
from collections.abc import Callable
from typing import Any

import pyspark

from jobs import __version__
from jobs.errors import JobError
from jobs.options import Options
from jobs.storage import Storage

log = logging.getLogger(__name__)

# Everything this job writes below --output-path, and so all that --overwrite removes.
OUTPUTS = (
    "run.json",
    "dedup",
    "dedup_summary.csv",
    "clustering",
    "extraction",
    "rejected",
    "_work",
)

Record = dict[str, Any]


class Run:
    """Where a run stands: its output folder and the records of its complete stages."""

    def __init__(self, storage: Storage, output_path: str, options: Record, records: dict[str, Record]) -> None:
        self.storage = storage
        self.output_path = output_path.rstrip("/")
        self.records = records
        self._options = options
        self.read_by_python = 0  # bytes that tasks have read past Spark, which does not count them

    def path(self, *parts: str) -> str:
        """A path of the output tree."""
        return "/".join((self.output_path, *parts))

    def work(self, name: str) -> str:
        """A path for an intermediate table."""
        return self.path("_work", name)

    @property
    def complete(self) -> bool:
        return self.storage.read_json(self.path("run.json")) is not None

    def stage(self, name: str, work: Callable[[], Record]) -> Record:
        """The record of a stage: of an earlier run if it finished there, else of doing it now."""
        if name in self.records:
            log.info("%-12s already done", name)
            return self.records[name]
        log.info("%-12s started", name)
        start, before, by_python = time.monotonic(), self.storage.traffic(), self.read_by_python
        record = work()
        record["seconds"] = round(time.monotonic() - start, 3)
        read, shuffled = (now - then for now, then in zip(self.storage.traffic(), before, strict=True))
        record["bytes_read"] = read + self.read_by_python - by_python
        record["bytes_shuffled"] = shuffled
        self.storage.write_json(self._record_path(name), record)
        self.records[name] = record
        log.info("%-12s %6.1f s  %s", name, record["seconds"], _in_short(record))
        return record

    def finish(self) -> None:
        """Write run.json, the mark of a complete run, and remove `_work/`; a run that was complete stays as it is."""
        if not self.complete:
            self._write_run_json()
        self.storage.delete(self.path("_work"))

    def _write_run_json(self) -> None:
        versions = {
            "spark-semdedup": __version__,
            "pyspark": pyspark.__version__,
            "python": platform.python_version(),
        }
        summary = {"options": self._options, "versions": versions, "stages": self.records}
        self.storage.write_json(self.path("run.json"), summary)

    def _record_path(self, stage: str) -> str:
        return self.work(f"stages/{stage}.json")


def open_run(storage: Storage, options: Options) -> Run:
    """A new run, or the one in --output-path to go on with.

    Raises JobError when the folder holds something else and --overwrite is not given.
    """
    run = Run(storage, options.output_path, options.fingerprint(), {})
    if storage.is_file(run.output_path):
        raise JobError(f"--output-path {options.output_path} is a file: choose a folder")
    if options.overwrite:
        for name in OUTPUTS:
            storage.delete(run.path(name))
    elif storage.exists(run.output_path):
        _resume(run, options)
    if not run.complete:
        storage.write_json(run.work("options.json"), options.fingerprint())
    return run


def _resume(run: Run, options: Options) -> None:
    """Take over the records of the run in the output folder, if it is the same run."""
    storage, where = run.storage, f"--output-path {options.output_path}"
    finished = storage.read_json(run.path("run.json"))
    before = finished["options"] if finished else storage.read_json(run.work("options.json"))
    if before is None:
        if any(entry.name != "_work" for entry in storage.entries(run.output_path, limit=2)):
            raise JobError(
                f"{where} is not empty and holds no run of this job: choose another folder, or let --overwrite "
                f"replace what the job writes there ({', '.join(OUTPUTS)})"
            )
        return
    records = finished["stages"] if finished else _stage_records(run)
    for name, value in options.fingerprint().items():
        if records and before.get(name) != value:  # without a complete stage there is nothing to go on with
            raise JobError(
                f"{where} holds a run with other options (--{name.replace('_', '-')} was {before.get(name)}, "
                f"now {value}): choose another folder, or start it afresh with --overwrite"
            )
    run.records.update(records)


def _stage_records(run: Run) -> dict[str, Record]:
    """The records of the complete stages of an unfinished run, by stage."""
    records = {}
    for path in run.storage.glob(run.path("_work"), "stages/*.json"):
        record = run.storage.read_json(path)
        if record is not None:
            records[path.rsplit("/", 1)[-1].removesuffix(".json")] = record
    return records


def _in_short(record: Record) -> str:
    """The counts of a record, for a log line."""
    counts = [f"{k} {v:,}" for k, v in record.items() if isinstance(v, int) and not isinstance(v, bool)]
    return record.get("skipped") or ", ".join(counts)
