"""Small pieces of a page; every text that goes in is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from typing import Any

from nbutils.monitor.runview import format_number

__all__ = [
    "Section",
    "badge",
    "folded",
    "mapping",
    "moment",
    "paragraph",
    "table",
]

_MAX_ENTRIES = 60
_MAX_TEXT = 2000
_SYMBOLS = {"pass": "✓", "warn": "!", "fail": "✗", "info": "•"}


class Section:
    """A headed part of the page, or one line about what it lacks.

    Args:
        key: For links to it.
        title: Its heading.
        body: HTML; empty where there is nothing.
        missing: What is not there and why, where the body is empty.
    """

    def __init__(self, key: str, title: str, body: str, missing: str = "") -> None:
        self.key, self.title, self.body, self.missing = key, title, body, missing

    def html(self) -> str:
        """The section with its heading."""
        return (
            f'<section aria-labelledby="{self.key}"><h2 id="{self.key}">'
            f"{escape(self.title)}</h2>{self.body}</section>"
        )


def badge(status: str, text: str) -> str:
    """A word with a sign before it, so that it reads without colour."""
    return (
        f'<span class="badge {status}"><span aria-hidden="true">'
        f"{_SYMBOLS[status]}</span> {escape(text)}</span>"
    )


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph of plain text."""
    return f"<p{_kind(kind)}>{escape(text)}</p>"


def folded(summary: str, body: str) -> str:
    """What the reader opens; printed, it lies open."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    numeric: Iterable[int] = (),
    marked: Iterable[int] = (),
) -> str:
    """A table whose first column names its rows.

    Args:
        head: Names of the columns.
        rows: Cells; text is escaped, a ``(html,)`` tuple is put in as it is.
        caption: What the table shows.
        numeric: Columns that are aligned right.
        marked: Rows that are tinted; their text must say why.
    """
    right, tinted = set(numeric), set(marked)
    top = "".join(
        f'<th scope="col"{_kind("n" if i in right else "")}>{escape(name)}</th>'
        for i, name in enumerate(head)
    )
    body = []
    for number, row in enumerate(rows):
        cells = "".join(
            _cell(value, is_head=i == 0, kind="n" if i in right else "")
            for i, value in enumerate(row)
        )
        body.append(f"<tr{_kind('best' if number in tinted else '')}>{cells}</tr>")
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    header = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return (
        f'<div class="wide" tabindex="0"><table>{told}{header}'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def mapping(values: Mapping[str, Any]) -> str:
    """Names and values; nested ones as tables in tables."""
    return f'<div class="wide" tabindex="0">{_pairs(values)}</div>'


def moment(time_s: Any) -> str:
    """A point in time as a date; seconds since 1970 mean nothing to a reader."""
    if not isinstance(time_s, (int, float)) or not 0 < time_s < 2e10:
        return "-"
    return f"{datetime.fromtimestamp(time_s, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{_value(name, value)}</td>'
        "</tr>"
        for name, value in list(values.items())[: 4 * _MAX_ENTRIES]
    )
    return f"<table>{rows}</table>"


def _kind(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(value: Any, *, is_head: bool, kind: str) -> str:
    inner = value[0] if isinstance(value, tuple) else escape(format_number(value))
    if is_head:
        return f'<th scope="row"{_kind(kind)}>{inner}</th>'
    return f"<td{_kind(kind)}>{inner}</td>"


def _value(name: object, value: Any) -> str:
    is_time = str(name) == "time" or str(name).endswith("_s")
    if is_time and isinstance(value, (int, float)) and value > 1e9:
        return moment(value)
    if isinstance(value, Mapping):
        return _pairs(value) if value else "-"
    if isinstance(value, (list, tuple)):
        return _entries(value)
    return escape(format_number(value)[:_MAX_TEXT])


def _entries(values: Sequence[Any]) -> str:
    if any(isinstance(item, list) for item in values):
        return _matrix(values)
    shown = [_value("", item) for item in values[:_MAX_ENTRIES]]
    rest = len(values) - len(shown)
    more = f" and {rest:,} more" if rest else ""
    between = "" if any(isinstance(item, Mapping) for item in values) else ", "
    return between.join(shown) + more if values else "-"


def _matrix(rows: Sequence[Any]) -> str:
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{_value("", item)}</td>'
            for item in (row if isinstance(row, list) else [row])[:_MAX_ENTRIES]
        )
        + "</tr>"
        for row in rows[:_MAX_ENTRIES]
    )
    rest = len(rows) - _MAX_ENTRIES
    more = f"<p>and {rest:,} more rows</p>" if rest > 0 else ""
    return f"<table>{lines}</table>{more}"
