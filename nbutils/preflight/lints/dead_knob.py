"""S4: a setting of the notebook that nothing reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from nbutils.config.leaves import LEAVES, nearest
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    MISSING,
    literal,
    walk,
)

__all__ = ["RULE"]

OPEN = {"locals", "globals", "vars", "exec", "eval"}


def _run(source: Source) -> Iterator[Hit]:
    """A literal with the name of a setting, at the top of a cell, never used."""
    if not source.is_notebook or any(cell.problem for cell in source.cells):
        return
    loaded = {
        node.id
        for node in walk(source.tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    if loaded & OPEN:
        return
    magics = " ".join(text for cell in source.cells for _, text in cell.magics)
    loaded |= set(re.findall(r"\w+", magics))
    for node in source.tree.body:
        if not isinstance(node, ast.Assign) or literal(node.value) is MISSING:
            continue
        target = node.targets[0]
        name = target.id if isinstance(target, ast.Name) else ""
        leaf = name if name in LEAVES else nearest(name, 0.99) if name else None
        if leaf in LEAVES and name not in loaded:
            yield Hit(
                line=node.lineno,
                title=f"{name} is set, and nothing reads it",
                expected="a value that is passed on",
                actual=ast.unparse(node)[:80],
                fix=f"Pass it, as {leaf}={name}, or remove the line.",
                severity="warn",
            )


RULE = Rule(
    "S4.dead-knob",
    "A number is changed, the run is the same, and nobody notices.",
    _run,
)
