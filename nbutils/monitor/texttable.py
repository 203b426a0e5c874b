"""Tables as aligned text and as HTML; every text in them is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["html_table", "text_table"]

_CELL = (
    "padding:2px 12px 2px 0;vertical-align:top;overflow-wrap:break-word;"
    "border-bottom:1px solid rgba(128,128,128,.25)"
)


def text_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """Columns under their names.

    Args:
        names: The heading of each column.
        rows: One text a column.
        right: Numbers of the columns that are set to the right.

    Example:
        >>> print(text_table(["run", "loss"], [["owl", "0.5"]], right=[1]))
        run  loss
        owl   0.5
    """
    lines = [list(names), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]

    def cell(text: str, at: int) -> str:
        return text.rjust(widths[at]) if at in right else text.ljust(widths[at])

    return "\n".join(
        "  ".join(cell(text, at) for at, text in enumerate(line)).rstrip()
        for line in lines
    )


def html_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """The same as HTML; it scrolls where it is wider than the page."""
    head = "".join(_cell("th", name, at in right) for at, name in enumerate(names))
    body = "".join(
        f"<tr>{''.join(_cell('td', text, at in right) for at, text in enumerate(row))}"
        "</tr>"
        for row in rows
    )
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;'
        'font-size:13px;font-variant-numeric:tabular-nums;margin:2px 0 6px">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(tag: str, text: str, is_right: bool) -> str:
    align = "right;white-space:nowrap" if is_right else "left"
    return f'<{tag} style="{_CELL};text-align:{align}">{escape(text)}</{tag}>'
