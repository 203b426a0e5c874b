"""What an executed notebook must not hold: keys, dead widgets, too many bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbutils.preflight.lints.secret_keys import redact

__all__ = ["MAX_BYTES", "executed_problems"]

MAX_BYTES = 300_000
"""What viewers open without trouble, and what a repository can take."""

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
_MIN_SECRET_LETTERS = 8
_PICTURE = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")


def executed_problems(
    path: str | Path,
    *,
    max_bytes: int = MAX_BYTES,
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """What is wrong with an executed notebook as a file, a sentence each.

    Args:
        path: The ``.ipynb`` file.
        max_bytes: How large it may be.
        environ: Variables whose values must not appear where their name says that
            they are secret; this process's by default.
    """
    import nbformat

    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    secrets = _secrets(os.environ if environ is None else environ)
    problems: list[str] = []
    if "widgets" in notebook.metadata:
        problems.append("it holds the state of widgets, and with it what was typed")
    for number, cell in enumerate(notebook.cells, 1):
        found = list(_cell_problems(cell, secrets))
        problems += [f"cell {number} {what}" for what in dict.fromkeys(found)]
    num_bytes = path.stat().st_size
    if num_bytes > max_bytes:
        problems.append(f"it has {num_bytes:,} bytes; at most {max_bytes:,} are wanted")
    return problems


def _cell_problems(cell: Any, secrets: Mapping[str, str]) -> Iterator[str]:
    for output in cell.get("outputs", ()):
        if WIDGET_VIEW in output.get("data", {}):
            yield "shows a widget that is dead in a saved file"
        if output.output_type == "error":
            yield f"ended with {output.ename}"
    for text in _texts(cell):
        if redact(text) != text:
            yield "holds what looks like a key"
        for name, value in secrets.items():
            if value in text:
                yield f"holds the value of {name}"


def _texts(cell: Any) -> Iterator[str]:
    """Source and output of a cell, pictures left out."""
    yield cell.source
    for output in cell.get("outputs", ()):
        yield output.get("text", "")
        yield "\n".join([output.get("evalue", ""), *output.get("traceback", ())])
        for kind, value in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield _PICTURE.sub("", str(value))


def _secrets(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if _SECRET_NAME.search(name.upper()) and len(value) >= _MIN_SECRET_LETTERS
    }
