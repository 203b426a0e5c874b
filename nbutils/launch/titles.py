"""What a cell is called on a terminal and in a report."""

from __future__ import annotations

from typing import Any

__all__ = ["describe_cell"]

_WIDTH = 68
_IMPORTS = ("import ", "from ")


def describe_cell(cell: Any) -> str:
    """The line that says most: a heading, a comment on top, or code beyond imports.

    Example:
        >>> describe_cell({"cell_type": "markdown", "source": "## Results"})
        'Results'
        >>> describe_cell({"cell_type": "code", "source": "run.train()  # long"})
        'run.train()  # long'
    """
    lines = [line.strip() for line in cell["source"].splitlines() if line.strip()]
    if cell["cell_type"] == "code" and lines and not _is_comment(lines[0]):
        code = [line for line in lines if not line.startswith("#")]
        lines = [line for line in code if not line.startswith(_IMPORTS)] or code
    text = lines[0].lstrip("# ") if lines else "(empty)"
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _is_comment(line: str) -> bool:
    """Whether a line tells the reader something; forms and markers do not."""
    return line.startswith("# ") and not line.startswith(("# %", "# @"))
