"""Check that each notebook is its jupytext source without outputs, or write it so.

Usage: ``python scripts/check_notebooks.py [--write]``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

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
    return found


def essence(cell: Any) -> tuple[str, str, tuple[str, ...]]:
    """What a cell is: kind, source and tags."""
    tags = tuple(cell.metadata.get("tags", ()))
    return cell.cell_type, cell.source.strip(), tags


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
