"""Keep secrets out of what the job says and writes: its log lines, its errors, run.json."""

import logging
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

_HIDDEN = "***"
SENSITIVE = r"secret|passw|token|credential|(access|account|storage|private|api)[._-]?key|\bsas\b"
_PLAIN_NAME = re.compile(r"provider|interval|enabled|class|path|file|location|algorithm|expir|renew|size|limit", re.I)
_LEAST_LENGTH = 6  # of a secret; hiding every "1" would hide the message

_PATTERNS = (
    # In the URIs of S3 the key may hold slashes, and a bucket has no colon; elsewhere a colon is also that of a port.
    re.compile(r"(?<=s3://)[^\s/:@]+:[^\s@]+(?=@)|(?<=s3[an]://)[^\s/:@]+:[^\s@]+(?=@)", re.I),
    re.compile(r"(?<=://)[^\s/:@]*:[^\s/@]+(?=@)"),
    re.compile(r"(?<=[?&;])[\w-]*(?:sig|signature|credential|token|secret|password|key)=[^\s&;]+", re.I),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
)  # fmt: skip

_known: set[str] = set()


def learn_secrets(settings: Iterable[tuple[str, str]]) -> None:
    """Take note of the values that are secrets by the names of their settings or variables."""
    for name, value in settings:
        secret = re.search(SENSITIVE, name, re.I) and not _PLAIN_NAME.search(name)
        if secret and len(value) >= _LEAST_LENGTH and not value.startswith(("/", "file:")):
            _known.update((value, quote(value), quote(value, safe="")))


def redact(text: str) -> str:
    """The text without any secret learned, without the login in a URI, and without its signatures and tokens."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(_HIDDEN, text)
    return text


def redacted(value: Any) -> Any:
    """A JSON value, redacted in all its texts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


class RedactingFormatter(logging.Formatter):
    """Formats log records, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
