import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs import dedup
from jobs.errors import advice, one_line

PYTHON = """An exception was thrown from the Python worker. Please see the stack trace below.
Traceback (most recent call last):
  File "udfs/parquet.py", line 77, in _opened
    raise ValueError(f"{part.uri} cannot be read") from e
ValueError: file:/in/part-0.parquet cannot be read: Corrupt data.

"""


def test_of_a_traceback_the_error_is_shown_and_else_the_first_line() -> None:
    assert one_line(PYTHON) == "ValueError: file:/in/part-0.parquet cannot be read: Corrupt data."
    assert one_line("Path does not exist\n\tat org.apache.spark.Error: x") == "Path does not exist"
    assert one_line("one\njava.io.IOException: two") == "one"
    assert one_line(" ") == ""


def test_the_error_of_a_barrier_task_is_found_behind_its_stage() -> None:
    message = """Job aborted due to stage failure: Could not recover from a failed barrier ResultStage...
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "core.py", line 852, in _train_udf
ModuleNotFoundError: No module named 'cupy'

\tat org.apache.spark.api.python.BasePythonRunner(PythonRunner.scala:1)
"""
    assert one_line(message) == "ModuleNotFoundError: No module named 'cupy'"


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ("java.io.IOException: No space left on device", "a disk is full"),
        ("/data/blockmgr-1/temp_shuffle (No space left on device)", "a disk is full"),
        ("java.lang.OutOfMemoryError: Java heap space", "out of memory"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 GiB", "out of memory"),
        ("Container killed by YARN for exceeding physical memory limits. 5.5 GB of 5.5 GB used", "out of memory"),
        ("ExecutorLostFailure: Container from a bad node. Exit code 137", "out of memory"),
        ("Python worker exited unexpectedly (crashed)", "a Python worker was killed"),
        ("EOFException occurred while reading the port number from pyspark.daemon's stdout", "a Python worker was"),
        (repr(ConnectionRefusedError(111, "Connection refused")), "the driver's JVM has ended"),
        (repr(OSError(28, "No space left on device")), "a disk is full"),
        (repr(MemoryError()), "out of memory"),
        ("ArrowException: Unknown error: Failed to launch worker thread: Resource temporarily unavailable", "out of"),
        ("Answer from Java side is empty", "the driver's JVM has ended"),
    ],
)
def test_what_spark_says_of_a_machine_ends_with_advice(message: str, what: str) -> None:
    assert advice(message).startswith(f" ({what}")
    assert advice(message).endswith("then give the same command again)")


def test_nothing_is_advised_where_nothing_is_known() -> None:
    assert advice("Path does not exist: s3a://b/x") == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_by_way_of_its_contexts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    left = []

    @contextmanager
    def session() -> Iterator[None]:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
            yield
        finally:
            left.append("session")

    monkeypatch.setattr(dedup, "spark_session", session)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            dedup.main(["--input-embeddings-path", "in", "--output-path", "out"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == code
    assert left == ["session"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "Connection refused"), OSError(28, "No space left")])
def test_what_breaks_the_driver_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    @contextmanager
    def session() -> Iterator[None]:
        raise error
        yield

    monkeypatch.setattr(dedup, "spark_session", session)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="1"):
            dedup.main(["--input-embeddings-path", "in", "--output-path", "out"])
    finally:
        signal.signal(signal.SIGTERM, before)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"semdedup: error: the driver failed: {type(error).__name__}: ")
