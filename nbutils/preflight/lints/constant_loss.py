"""S5: a constant that takes the place of a loss which failed or is not finite."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.handlers import random_or_constant, tries
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import of_kind
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    bound_names,
    dotted,
    inside,
    last,
    own,
    walk,
)

__all__ = ["RULE"]

TESTS = {"isnan", "isinf", "isfinite"}


def _run(source: Source) -> Iterator[Hit]:
    trained = {
        event.who
        for _, found in source.training
        for event in of_kind(found, "backward")
    }
    for node, around in tries(source.tree):
        for handler in node.handlers:
            yield from _in_handler(node, handler, around, trained)
    for node in walk(source.tree):
        if isinstance(node, ast.If) and _tests_finite(node.test):
            yield from _replaced(node, trained)


def _in_handler(
    node: ast.Try,
    handler: ast.ExceptHandler,
    around: tuple[ast.AST, ...],
    trained: set[str],
) -> Iterator[Hit]:
    computed = {n for s in inside(node.body) for n in _targets(s)}
    function = next((a for a in around[::-1] if isinstance(a, FUNCTIONS)), None)
    in_loss = function is not None and _is_loss(function.name)
    for statement in inside(handler.body):
        made = random_or_constant(getattr(statement, "value", None))
        if not made:
            continue
        names = [n for n in _targets(statement) if n in computed or n in trained]
        is_tensor = made.startswith("torch.")
        if any(_is_loss(name) and (is_tensor or name in trained) for name in names):
            yield _hit(statement, f"{names[0]} = {made}(...)", "an error in the loss")
        elif isinstance(statement, ast.Return) and is_tensor and in_loss:
            yield _hit(statement, f"return {made}(...)", "an error in the loss")


def _replaced(node: ast.If, trained: set[str]) -> Iterator[Hit]:
    """``if torch.isnan(loss): loss = torch.tensor(0.0)`` and then backward."""
    for statement in inside(node.body):
        made = random_or_constant(getattr(statement, "value", None))
        names = [name for name in _targets(statement) if name in trained]
        if made and names and not any(isinstance(n, ast.Raise) for n in own(node)):
            told = f"{names[0]} = {made}(...)"
            yield _hit(statement, told, "a loss that is not finite")


def _tests_finite(test: ast.expr) -> bool:
    called = (n for n in walk(test) if isinstance(n, ast.Call))
    return any(last(call) in TESTS for call in called)


def _targets(node: ast.AST) -> list[str]:
    if not isinstance(node, ast.Assign):
        return []
    names = [name for target in node.targets for name in bound_names(target)]
    return names + [dotted(t) for t in node.targets if isinstance(t, ast.Attribute)]


def _is_loss(name: str) -> bool:
    return "loss" in name.lower()


def _hit(node: ast.AST, shown: str, what: str) -> Hit:
    return Hit(
        line=node.lineno,  # type: ignore[attr-defined]
        title=f"a constant takes the place of {what}",
        expected="the error raises; a window that is not finite is refused and counted",
        actual=f"{shown}: no parameter gets a gradient, and the run looks healthy",
        fix="Remove the branch. nbutils refuses such windows itself, within a budget.",
    )


RULE = Rule(
    "S5.constant-loss",
    "A constant has no gradient: the run goes on for days and trains nothing.",
    _run,
    ("loss",),
)
