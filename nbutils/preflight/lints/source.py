"""What is linted: a script, or a notebook as one program of many cells."""

from __future__ import annotations

import ast
import json
import tokenize
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nbutils.errors import ConfigError
from nbutils.preflight.lints.magics import plain
from nbutils.preflight.lints.steps import Event, events
from nbutils.preflight.lints.syntax import Scope, scopes

__all__ = ["Cell", "Source", "read_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A code cell, or the whole of a script.

    Args:
        number: Its place among all cells of the notebook, from 1; 0 for a script.
        first_line: Its first line in the joined text, from 1.
        text: Python, without magics.
        raw: As it was written.
        magics: ``(line, text)`` of the magics, lines counted within the cell.
        tree: Empty where the text is no Python.
        problem: ``(line, message)`` of a syntax error.
        execution_count: As saved with its output.
        is_parameters: Tagged ``parameters``.
        output: The text that it showed when it was saved.
    """

    number: int
    first_line: int
    text: str
    raw: str
    magics: tuple[tuple[int, str], ...]
    tree: ast.Module
    problem: tuple[int, str] | None
    execution_count: int | None = None
    is_parameters: bool = False
    output: str = ""


@dataclass(frozen=True)
class Source:
    """A parsed file; lines are those of the cells joined.

    Args:
        path: Where it lies.
        cells: One for a script.
    """

    path: Path
    cells: tuple[Cell, ...]
    is_notebook: bool = field(default=False)

    @cached_property
    def text(self) -> str:
        """The cells as they were written, joined."""
        return "\n".join(cell.raw for cell in self.cells)

    @cached_property
    def tree(self) -> ast.Module:
        """All cells as one module."""
        body: list[ast.stmt] = []
        for cell in self.cells:
            body += cell.tree.body
        return ast.Module(body, [])

    @cached_property
    def training(self) -> list[tuple[Scope, list[Event]]]:
        """Each function, and the module, with the events of training in it."""
        found = [(scope, events(scope)) for scope in scopes(self.tree)]
        return [(scope, inner) for scope, inner in found if inner]

    def cell_at(self, line: int) -> Cell:
        """The cell of a line."""
        return [cell for cell in self.cells if cell.first_line <= line][-1]

    def place(self, line: int) -> str:
        """``train.py:12``, or ``book.ipynb, cell 3, line 2``."""
        cell = self.cell_at(line)
        within = line - cell.first_line + 1
        if not self.is_notebook:
            return f"{self.path.name}:{within}"
        return f"{self.path.name}, cell {cell.number}, line {within}"

    def line(self, line: int) -> str:
        """The text of a line as it was written."""
        cell = self.cell_at(line)
        lines = cell.raw.split("\n")
        index = line - cell.first_line
        return lines[index].strip() if index < len(lines) else ""


def read_source(path: Path) -> Source:
    """Parse a ``.py`` file or a notebook.

    Raises:
        ConfigError: No such file, or one that cannot be read.
    """
    try:
        if path.suffix == ".ipynb":
            return _notebook(path)
        with tokenize.open(path) as file:
            return Source(path, (_cell(0, 1, file.read()),))
    except (OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ConfigError(
            [f"{path} cannot be read: {error}; give a .py file or a notebook."]
        ) from error


def _notebook(path: Path) -> Source:
    content = json.loads(path.read_text(encoding="utf-8"))
    cells: list[Cell] = []
    first_line = 1
    for number, record in enumerate(content["cells"], 1):
        if record["cell_type"] != "code":
            continue
        text = "".join(record["source"])
        cells.append(
            _cell(
                number,
                first_line,
                text,
                execution_count=record.get("execution_count"),
                is_parameters="parameters" in record["metadata"].get("tags", []),
                output="\n".join(map(_shown, record.get("outputs", []))),
            )
        )
        first_line += text.count("\n") + 1
    return Source(path, tuple(cells) or (_cell(0, 1, ""),), is_notebook=True)


def _cell(number: int, first_line: int, text: str, **more: Any) -> Cell:
    stripped = plain(text)
    tree, problem = ast.Module([], []), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a text: the interpreter will say
            tree = ast.parse(stripped.text)
        ast.increment_lineno(tree, first_line - 1)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        problem = (line, str(getattr(error, "msg", error)))
    return Cell(
        number=number,
        first_line=first_line,
        text=stripped.text,
        raw=text,
        magics=stripped.magics,
        tree=tree,
        problem=problem,
        **more,
    )


def _shown(output: dict[str, Any]) -> str:
    """The text of an output; pictures have none."""
    data = output.get("data", {}).get("text/plain", "")
    parts = [output.get("text", ""), data, output.get("traceback", "")]
    return "\n".join("".join(part) for part in parts if part)
