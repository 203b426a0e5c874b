"""Keeps keys and tokens out of what is written: their values are replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from nbutils.environment.secrets import SECRETS

__all__ = ["HIDDEN", "redact"]

HIDDEN = "[redacted]"
"""Stands where a secret stood."""

_KNOWN = {variable for variables in SECRETS.values() for variable in variables}
_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)"
    r"(_ID|_\d+)?$",
    re.IGNORECASE,
)
_MIN_LENGTH = 8
"""Shorter values are words, such as ``true``, and would be cut out of every line."""

# Tokens that say what they are, and a password inside an address.
_SHAPES = (
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), HIDDEN),
    (re.compile(r"\bwandb_v\d_[A-Za-z0-9_]{16,}"), HIDDEN),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}"), HIDDEN),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)"), rf"\1{HIDDEN}"),
)


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text without secrets of the environment, nor tokens known by their shape.

    A variable holds a secret if its name ends like one, such as ``MY_API_KEY``.

    Args:
        text: What is to be written.
        environ: Environment variables; this process's by default.

    Example:
        >>> redact("login with 0123456789abcdef", {"WANDB_API_KEY": "0123456789abcdef"})
        'login with [redacted]'
    """
    environ = os.environ if environ is None else environ
    for value in sorted(_secrets(environ), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def _secrets(environ: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for name, text in environ.items():
        value = text.strip()
        is_secret = name in _KNOWN or _SECRET_NAME.search(name)
        if is_secret and len(value) >= _MIN_LENGTH and not Path(value).exists():
            found.add(value)  # the path of a key file is no key
    return found
