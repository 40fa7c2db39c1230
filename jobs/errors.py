"""Errors a user can mend: shown as one line, never as a stack trace."""

import re

_TRACEBACK = "Traceback (most recent call last):"


class JobError(Exception):
    """What is wrong, with the flag or column, the value, what is legal and what to do."""


class UsageError(JobError):
    """A flag is wrong in itself; nothing was read."""


def one_line(message: str) -> str:
    """Of a message with the traceback of a Python worker the error that ends it, else the first line."""
    lines = message.strip().splitlines() or [""]
    begins = [line.strip().endswith(_TRACEBACK) for line in lines]
    rest = [line for line, begin in zip(lines, begins, strict=True) if not begin]
    raised = [line for line in rest if re.match(r"[\w.]*(Error|Exception|ArrowInvalid|Warning)\b.*: ", line)]
    return raised[-1] if raised and any(begins) else lines[0]
