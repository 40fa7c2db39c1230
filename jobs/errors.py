"""Errors a user can mend: shown as one line, never as a stack trace."""

import re

from jobs.redaction import redact

_TRACEBACK = "Traceback (most recent call last):"


class JobError(Exception):
    """What is wrong, with the flag or column, the value, what is legal and what to do; shown without secrets."""

    def __str__(self) -> str:
        return redact(super().__str__())


class UsageError(JobError):
    """A flag is wrong in itself; nothing was read."""


def one_line(message: str) -> str:
    """Of a message with the traceback of a Python worker the error that ends it, else the first line."""
    lines = message.strip().splitlines() or [""]
    begins = [line.strip().endswith(_TRACEBACK) for line in lines]
    rest = [line for line, begin in zip(lines, begins, strict=True) if not begin]
    raised = [line for line in rest if re.match(r"[\w.]*(Error|Exception|ArrowInvalid|Warning)\b.*: ", line)]
    return raised[-1] if raised and any(begins) else lines[0]


# What a user sees when the machine is at fault, and what helps.
_SEE = "see docs/operations.md"
_ADVICE = (
    (
        r"No space left on device|Disk quota exceeded|ENOSPC",
        "a disk is full: free space where --output-path is and in spark.local.dir",
    ),
    (
        r"OutOfMemoryError|MemoryError|Cannot allocate memory|memory limits|exceeding (physical )?memory|code 137|"
        r"Resource temporarily unavailable",
        f"out of memory: {_SEE}",
    ),
    (
        r"Python worker exited unexpectedly|pyspark\.daemon's stdout",
        f"a Python worker was killed, mostly for its memory: {_SEE}",
    ),
    (
        r"Answer from Java side is empty|while sending or receiving|Connection(Refused|Reset)Error",
        "the driver's JVM has ended: see its last lines above, and docs/operations.md",
    ),
)


def advice(message: str) -> str:
    """What to do about an error of Spark's, from all that it says, to end a message with; empty if not known."""
    known = (what for symptom, what in _ADVICE if re.search(symptom, message))
    return next((f" ({what}, then give the same command again)" for what in known), "")
