"""A run config to look at: every value that is no default, and who set it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from nbutils.config.leaves import dotted

__all__ = ["html_table", "text_table"]

Changes = Mapping[str, tuple[Any, str]]

_CELL = "padding:.15em .9em .15em 0;text-align:left;vertical-align:top"


def text_table(changes: Changes) -> str:
    """Columns of setting, value and origin.

    Example:
        >>> print(text_table({"epochs": (3, "argument")}))
        setting       value  from
        train.epochs  3      argument
    """
    if not changes:
        return "Every setting has its default."
    rows = [("setting", "value", "from"), *_rows(changes)]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        f"{setting:<{wide[0]}}  {value:<{wide[1]}}  {origin}"
        for setting, value, origin in rows
    )


def html_table(changes: Changes, title: str) -> str:
    """The same table for a notebook, all text escaped."""
    if not changes:
        return f"<div><b>{escape(title)}</b>: every setting has its default.</div>"
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row)
        + "</tr>"
        for row in _rows(changes)
    )
    head = "".join(
        f'<th style="{_CELL}">{name}</th>' for name in ("setting", "value", "from")
    )
    return (
        f"<div><b>{escape(title)}</b>"
        f'<table style="border-collapse:collapse"><tr>{head}</tr>{body}</table></div>'
    )


def _rows(changes: Changes) -> list[tuple[str, str, str]]:
    return [
        (dotted(leaf), repr(value), origin) for leaf, (value, origin) in changes.items()
    ]
