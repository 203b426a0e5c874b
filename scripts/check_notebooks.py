"""Check that each notebook is its jupytext source without outputs, or write it so.

Also that Run All can pass: nothing in it asks or mounts, the parameters have their
tag, and the first code cell installs what is missing.

Usage: ``python scripts/check_notebooks.py [--write]``
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ASKS = re.compile(
    r"\b(input|getpass|notebook_login|interpreter_login|wandb\.login)\s*\(|"
    r"\b(files\.upload|drive\.mount|userdata\.get)\b"
)
"""What holds up Run All until somebody answers, or fails where nobody can."""

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


def main(arguments: list[str]) -> int:
    """Check all notebooks; the number of those that differ from their source."""
    sources = sorted(FOLDER.glob("*.py"))
    if "--write" in arguments:
        for source in sources:
            write(source)
        return 0
    problems = [line for source in sources for line in differences(source)]
    strays = {path.stem for path in FOLDER.glob("*.ipynb")} - {p.stem for p in sources}
    problems += [f"{name}.ipynb has no source {name}.py" for name in sorted(strays)]
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201 (a script)
    if problems:
        print(  # noqa: T201
            "Edit the .py, then run: python scripts/check_notebooks.py --write",
            file=sys.stderr,
        )
    return min(len(problems), 1)


def write(source: Path) -> None:
    """Write the notebook of a source: no outputs, stable cell ids."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02}"
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def differences(source: Path) -> list[str]:
    """What keeps a notebook from being its source, one line each."""
    path = source.with_suffix(".ipynb")
    if not path.exists():
        return [f"{path.name} is missing"]
    notebook = nbformat.read(path, as_version=4)
    found = []
    if [essence(c) for c in notebook.cells] != [
        essence(c) for c in jupytext.read(source).cells
    ]:
        found.append(f"{path.name} differs from {source.name}")
    if any(c.get("outputs") or c.get("execution_count") for c in notebook.cells):
        found.append(f"{path.name} holds outputs")
    if "widgets" in notebook.metadata:
        found.append(f"{path.name} holds widget state")
    return found + [f"{path.name} {what}" for what in obstacles(notebook)]


def obstacles(notebook: Any) -> Iterator[str]:
    """What would keep Run All from passing on every platform."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if found := ASKS.search(cell.source):
            yield f"asks: {found[0]!r}"
        if re.search(r"^\s*[%!]\s*pip\b", cell.source, re.MULTILINE):
            yield "installs with a magic, also where all is there"
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        yield f"has {len(tagged)} cells tagged 'parameters', not one"
    elif "smoke" not in tagged[0].source:
        yield "has no parameter smoke"
    if not code or "install import complete" not in code[0].source:
        yield "does not begin with the cell that installs what is missing"


def essence(cell: Any) -> tuple[str, str, tuple[str, ...]]:
    """What a cell is: kind, source and tags."""
    tags = tuple(cell.metadata.get("tags", ()))
    return cell.cell_type, cell.source.strip(), tags


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
