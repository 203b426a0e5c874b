"""S5: parts of a loss, a forward or a training function that are never reached."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    inside,
    last,
    walk,
    words,
)

__all__ = ["RULE", "unreached"]

ENDS = (ast.Return, ast.Raise, ast.Break, ast.Continue)
NAMES = {"forward", "loss", "train", "training", "step", "criterion", "objective"}


def _run(source: Source) -> Iterator[Hit]:
    for node in walk(source.tree):
        if isinstance(node, FUNCTIONS) and NAMES & set(words(node.name)):
            yield from unreached(node)


def unreached(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Hit]:
    """Statements of a function that stand behind its end."""
    for inner in [node, *inside(node.body)]:
        for name in ("body", "orelse", "finalbody"):
            yield from _unreached(getattr(inner, name, None), node.name)


def _unreached(block: object, name: str) -> Iterator[Hit]:
    statements = block if isinstance(block, list) else []
    for first, second in itertools.pairwise(statements):
        if isinstance(first, ENDS) and _matters(second):
            word = type(first).__name__.lower()
            yield Hit(
                line=second.lineno,
                title=f"code of {name} that is never reached",
                expected="every line of the objective runs",
                actual=f"it stands after the {word} of line above",
                fix=f"Remove it, or the {word} that was put there to try something.",
                severity="warn",
            )


def _matters(statement: ast.stmt) -> bool:
    """Not the ``yield`` that makes a generator, nor a stub's remainder."""
    is_work = isinstance(statement, (ast.Assign, ast.AugAssign, ast.Return, ast.For))
    is_generator = any(
        isinstance(n, (ast.Yield, ast.YieldFrom)) for n in walk(statement)
    )
    is_stub = isinstance(statement, ast.Return) and not any(
        last(n) for n in walk(statement) if isinstance(n, ast.Call)
    )
    return is_work and not is_generator and not is_stub


RULE = Rule(
    "S5.unreachable",
    "A return put in for a trial leaves the real objective behind it unused.",
    _run,
)
