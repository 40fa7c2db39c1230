"""Errors a user can mend: shown as one line, never as a stack trace."""


class JobError(Exception):
    """What is wrong, with the flag or column, the value, what is legal and what to do."""


class UsageError(JobError):
    """A flag is wrong in itself; nothing was read."""
