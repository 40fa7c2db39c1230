"""One writer: a run holds a lease on its output folder for as long as it lives.

Object stores cannot create a file only if there is none, so a lease takes no such thing. Each run that wants to write
puts a claim of its own into `_lock/` and then looks for others. Of two runs the one that looks later sees the claim
of the other, since it was written before; it withdraws. A holder renews its claim. One that is not renewed any more
is dead. Ages are differences of two times that the storage gave, so that clocks need not agree.
"""

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from jobs.errors import JobError
from jobs.storage import Storage, java_message

log = logging.getLogger(__name__)

FOLDER = "_lock"
RENEW_SECONDS = 10.0
EXPIRE_SECONDS = 60.0


def hold_output(spark: SparkSession, storage: Storage, output_path: str) -> "Lease":
    """The lease on an output folder for this driver; when it is lost, Spark's jobs are cancelled."""
    jvm: Any = spark._jvm
    processes = [os.getpid(), int(jvm.java.lang.ProcessHandle.current().pid())]
    context = spark.sparkContext
    return Lease(storage, output_path, context.applicationId, processes, context.cancelAllJobs)


@dataclass(frozen=True)
class Claim:
    """What a run says of itself in `_lock/`, and when the storage last saw it, in ms."""

    path: str
    written: int
    said: dict[str, Any]

    @property
    def holds(self) -> bool:
        return bool(self.said.get("holds"))

    def __str__(self) -> str:
        return f"application {self.said.get('application')} of host {self.said.get('host')}"


class Lease:
    """The right to write to an output folder, to be used as a context.

    Raises JobError on entering when another run is alive there, and from `check` when this one has lost its right.
    on_loss: called once when that is noticed, from another thread.
    """

    def __init__(
        self, storage: Storage, output_path: str, application: str, processes: list[int], on_loss: Callable[[], None]
    ) -> None:
        self._storage = storage
        self._folder = f"{output_path.rstrip('/')}/{FOLDER}"
        self._own = f"{self._folder}/{uuid.uuid4().hex}.json"
        self._said = {
            "host": socket.gethostname(),
            "application": application,
            "processes": _alive(processes),
        }
        self._on_loss = on_loss
        self._lost = False
        self._renewed = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._acquire()
        except BaseException:
            self._storage.delete(self._own)
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._stop.set()
        try:
            self._thread.join()
            self._storage.delete(self._own)
            self._storage.delete_if_empty(self._folder)
        except (Py4JError, OSError, JobError) as e:
            if kind is None:
                log.warning("the claim on the output could not be withdrawn, and will expire: %s", java_message(e))

    def check(self) -> None:
        """Raises JobError when the lease is lost: another run may be writing."""
        late = time.monotonic() - self._renewed > EXPIRE_SECONDS
        if self._lost or late or not self._storage.exists(self._own):
            raise JobError(
                f"this run could not renew its claim {self._own} for {EXPIRE_SECONDS:.0f} s, or another run took over "
                "the output folder: nothing more is written; give the same command again"
            )

    def _acquire(self) -> None:
        first_seen: dict[str, int] = {}
        waiting = False
        while True:
            now = self._claim(holds=False)
            others = self._others()
            if not others:
                self._claim(holds=True)
                return
            silent = []
            for other in others:
                alive = _are_alive(other.said.get("processes"))
                if alive is False or now - other.written > EXPIRE_SECONDS * 1000:
                    self._storage.delete(other.path)
                elif other.holds and (alive or first_seen.setdefault(other.path, other.written) != other.written):
                    raise JobError(
                        f"another run is writing to {self._folder.removesuffix('/' + FOLDER)} ({other}): wait until it "
                        "has ended, or choose another --output-path"
                    )
                elif other.holds:
                    silent.append(other)
            self._storage.delete(self._own)
            if silent and not waiting:
                waiting = True
                log.info("a run was here (%s): waiting up to %.0f s to see whether it lives", silent[0], EXPIRE_SECONDS)
            time.sleep(random.uniform(0.1, 2.0 if waiting else 1.0))  # noqa: S311  two that met must not meet again

    def _claim(self, holds: bool) -> int:
        """Write or renew the own claim; returns when, by the storage's clock, in ms."""
        self._storage.write(self._own, json.dumps({**self._said, "holds": holds}).encode())
        self._renewed = time.monotonic()
        return self._storage.modified(self._own)

    def _others(self) -> list[Claim]:
        found = []
        for entry in self._storage.entries(self._folder, 1000):
            path = f"{self._folder}/{entry.name}"
            if not entry.name.startswith(".") and path != self._own:
                found.append(Claim(path, entry.modified, self._storage.read_json(path) or {}))
        return found

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                taken = not self._storage.exists(self._own) or any(other.holds for other in self._others())
                if not taken:
                    self._claim(holds=True)
            except (Py4JError, OSError, JobError) as e:
                taken = False
                log.warning("the claim on the output folder could not be renewed: %s", java_message(e))
            if taken or time.monotonic() - self._renewed > EXPIRE_SECONDS:
                self._lost = True
                self._on_loss()
                return


def _alive(processes: list[int]) -> list[list[str]]:
    """What tells these processes from all others: boot, PID namespace, number, start; none where that is unknown."""
    return [mark for pid in processes if (mark := _mark(pid))]


def _mark(pid: int) -> list[str] | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] == "Z" else [boot, namespace, str(pid), after_name[19]]


def _are_alive(marks: list[list[str]] | None) -> bool | None:
    """Whether the processes live; None where that cannot be told from here, or where some do, and may be ending."""
    here = _mark(os.getpid())
    if not here or not marks or any(mark[:2] != here[:2] for mark in marks):
        return None
    each = {_mark(int(mark[2])) == mark for mark in marks}
    return each.pop() if len(each) == 1 else None
