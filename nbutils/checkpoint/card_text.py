"""Any text and number as Markdown that shows it as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nbutils.monitor.runview import format_number

__all__ = ["plain", "readable", "table"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")
_MAX_VALUES = 12


def readable(value: Any) -> str:
    """A number, or a short list of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(readable(item) for item in value[:_MAX_VALUES])
        more = len(value) - _MAX_VALUES
        return f"{shown} and {more} more" if more > 0 else shown
    return plain(format_number(value))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells that are Markdown already."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text if text.strip() else " "


def plain(value: object) -> str:
    r"""Any text as one line that Markdown and HTML show as it is.

    Example:
        >>> print(plain("a_b|<script>"))
        a\_b\|&lt;script&gt;
    """
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)
