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
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|ArrowInvalid|Warning)\b.*: ", line)]
    return raised[-1] if raised and any(line.strip() == _TRACEBACK for line in lines) else lines[0]
