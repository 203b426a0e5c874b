"""What a cell is called on a terminal and in a report."""

from __future__ import annotations

from typing import Any

__all__ = ["describe_cell"]

_WIDTH = 68


def describe_cell(cell: Any) -> str:
    """The first line that says something: a heading, or code without comments.

    Example:
        >>> describe_cell({"cell_type": "markdown", "source": "## Results"})
        'Results'
    """
    lines = [line.strip() for line in cell["source"].splitlines() if line.strip()]
    if cell["cell_type"] == "code":
        lines = [line for line in lines if not line.startswith("#")] or lines
    text = lines[0].lstrip("# ") if lines else "(empty)"
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
