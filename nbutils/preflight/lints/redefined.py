"""S7: a setting that a cell below sets to something else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from nbutils.config.leaves import LEAVES
from nbutils.preflight.lints.names import cell_names
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Cell, Source
from nbutils.preflight.lints.syntax import MISSING, literal

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    """Literals only, of names that are settings or parameters of the notebook."""
    if not source.is_notebook:
        return
    first: dict[str, tuple[Cell, Any]] = {}
    used: dict[str, int] = {}
    for cell in source.cells:
        for node in cell.tree.body:
            name, value = _setting(node)
            if value is MISSING:
                continue
            above, before = first.setdefault(name, (cell, value))
            is_setting = name.lower() in LEAVES or above.is_parameters
            is_other = above is not cell and before != value and before is not None
            is_between = name in used or above.is_parameters
            if is_setting and is_other and is_between:
                yield _hit(node, name, above, before, value)
        for name in cell_names(cell.tree).needed:
            if name in first:
                used.setdefault(name, cell.number)


def _setting(node: ast.stmt) -> tuple[str, Any]:
    is_plain = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    if not is_plain:
        return "", MISSING
    return node.targets[0].id, literal(node.value)  # type: ignore[attr-defined]


def _hit(node: ast.stmt, name: str, above: Cell, before: Any, value: Any) -> Hit:
    is_lost = above.is_parameters
    return Hit(
        line=node.lineno,
        title=f"{name} is set again, to {value!r}",
        expected=f"one value, that of cell {above.number}: {before!r}",
        actual="a value given with -p is lost here"
        if is_lost
        else "cells above used the first; run again they use the second",
        fix="Remove this line, or give the second value a name of its own.",
        severity="warn",
    )


RULE = Rule(
    "S7.redefined",
    "The result depends on which cells were run last.",
    _run,
)
