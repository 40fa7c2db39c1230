"""Contenders as processes: their output, seconds, and the memory of Python workers."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def finished(command: list[str], limit: int | None = None, environment: dict[str, str] | None = None) -> str:
    """What a process prints; raises RuntimeError with its last words when it fails, TimeoutExpired over the limit."""
    own = {"PYTHONPATH": str(ROOT), "SPARK_CONF_DIR": str(ROOT / "conf/local"), **(environment or {})}
    process = subprocess.Popen(  # noqa: S603
        command, cwd=ROOT, env=os.environ | own, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the JVM and its workers as well
        process.communicate()
        raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{out[-2000:]}{err[-4000:]}")
    return out


def timed(command: list[str], limit: int | None = None) -> float:
    """Seconds of a whole process."""
    start = time.monotonic()
    finished(command, limit)
    return time.monotonic() - start


class PeakMemory:
    """The greatest resident memory of any PySpark worker process while a block runs."""

    def __enter__(self) -> None:
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if b"pyspark" not in (status.parent / "cmdline").read_bytes():
                        continue
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                    if "pyspark.daemon" in (status.parent / "cmdline").read_text():
                        self.bytes = max(self.bytes, int(lines.get("VmHWM", "0 kB").split()[0]) * 1024)
                except OSError:
                    continue
