"""Files, notebook cells and their functions, found from code objects."""

from __future__ import annotations

import ast
import linecache
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from nbutils.preflight.lints.magics import plain
from nbutils.preflight.lints.syntax import FUNCTIONS, walk

__all__ = ["File", "Files"]

MAX_CHARACTERS = 1_000_000
MAX_FILES = 64


@dataclass(eq=False, repr=False)
class File:
    """The functions of one file or notebook cell, by name and first line.

    Args:
        path: As the code objects name it.
        lines: Its text.
    """

    path: str
    lines: list[str]
    functions: dict[tuple[str, int], ast.FunctionDef | ast.AsyncFunctionDef] = field(
        default_factory=dict
    )
    lambdas: dict[int, list[ast.Lambda]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return Path(self.path).name

    def line(self, number: int) -> str:
        """The text of a line."""
        return self.lines[number - 1].strip() if number <= len(self.lines) else ""


class Files:
    """Parses each file once in a process, as long as its text is the same."""

    _known: ClassVar[dict[str, File]] = {}

    def node(
        self, code: types.CodeType
    ) -> tuple[File, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda] | None:
        """Where a function is defined; none without a source, or if in doubt."""
        file = self._file(code.co_filename)
        if code.co_name != "<lambda>":
            found = file.functions.get((code.co_name, code.co_firstlineno))
            return (file, found) if found is not None else None
        names = code.co_varnames[: code.co_argcount]
        alike = [
            node
            for node in file.lambdas.get(code.co_firstlineno, [])
            if tuple(argument.arg for argument in node.args.args) == names
            and set(_names(node)) >= set(code.co_names)
        ]
        return (file, alike[0]) if len(alike) == 1 else None

    def _file(self, path: str) -> File:
        lines = linecache.getlines(path)
        if path not in self._known or self._known[path].lines is not lines:
            if len(self._known) >= MAX_FILES:
                self._known.clear()
            file = File(path, lines)
            text = "".join(lines)
            if 0 < len(text) <= MAX_CHARACTERS:
                _fill(file, text)
            self._known[path] = file
        return self._known[path]


def _fill(file: File, text: str) -> None:
    tree = _parsed(text)
    if tree is None:
        return
    for node in walk(tree):
        if isinstance(node, FUNCTIONS):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            file.functions[node.name, first] = node
        elif isinstance(node, ast.Lambda):
            file.lambdas.setdefault(node.lineno, []).append(node)


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a text: the interpreter said so
        for form in (lambda: text, lambda: plain(text).text):
            try:
                return ast.parse(form())
            except (SyntaxError, ValueError, RecursionError):
                continue
    return None


def _names(node: ast.Lambda) -> Iterator[str]:
    for inner in walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr
