"""S5: training that changes when a debug or print switch does."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import Event, of_kind
from nbutils.preflight.lints.syntax import (
    dotted,
    inside,
    literal,
    own,
    walk,
    words,
)

__all__ = ["RULE"]

SWITCHES = {"debug", "verbose", "print", "log", "logging", "wandb", "tensorboard"}
OPS = {"backward": "the backward pass", "step": "the update", "zero": "zero_grad"}


def _run(source: Source) -> Iterator[Hit]:
    for scope, found in source.training:
        gates = {id(n): n for n in own(scope) if isinstance(n, ast.If) and _is_gate(n)}
        for event in of_kind(found, *OPS):
            for branch, arm in event.path:
                if arm == "body" and branch in gates and not _elsewhere(event, found):
                    yield _gated(gates[branch], event.node.lineno, OPS[event.kind])
        for gate in gates.values():
            yield from _scaled(gate, found)


def _is_gate(node: ast.If) -> bool:
    """A test on a switch for output; ``not debug`` chooses a dry run, on purpose."""
    if any(isinstance(part, ast.Not) for part in walk(node.test)):
        return False
    names = [dotted(part) for part in walk(node.test)]
    keys = [n.slice for n in walk(node.test) if isinstance(n, ast.Subscript)]
    names += [str(literal(key)) for key in keys]
    return any(SWITCHES & set(words(name)) for name in names)


def _elsewhere(event: Event, found: list[Event]) -> bool:
    """Whether the same call stands outside the gate or in its other branch too."""
    same = [e for e in found if e.kind == event.kind and e.who == event.who]
    return any(set(event.path) - set(other.path) for other in same)


def _scaled(gate: ast.If, found: list[Event]) -> Iterator[Hit]:
    """``loss = loss / n`` inside the gate, and ``loss.backward()`` after it."""
    for node in inside(gate.body):
        target = _rescaled(node)
        after = [
            event
            for event in of_kind(found, "backward")
            if event.who == target and event.node.lineno > (gate.end_lineno or 0)
        ]
        if target and after and _same_loop(gate, after[0]):
            yield _gated(gate, node.lineno, f"the scale of {target}")  # type: ignore[attr-defined]


def _same_loop(gate: ast.If, event: Event) -> bool:
    return not event.loops or any(gate in own(event.loops[-1]) for _ in (0,))


def _rescaled(node: ast.AST) -> str:
    """The loss that a statement divides or multiplies in place."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, (ast.Div, ast.Mult)):
        name = dotted(node.target)
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
        name = dotted(node.targets[0])
        is_scaling = isinstance(node.value.op, (ast.Div, ast.Mult))
        if not is_scaling or name not in map(dotted, own(node.value)):
            return ""
    else:
        return ""
    return name if "loss" in name.lower() else ""


def _gated(gate: ast.If, line: int, what: str) -> Hit:
    test = ast.unparse(gate.test)
    return Hit(
        line=line,
        title=f"{what} depends on a switch for output: if {test}",
        expected="the same training whether it is printed, logged or not",
        actual=f"under `if {test}:` (line above), and nowhere else",
        fix="Move it out of the branch; keep only the output there.",
    )


RULE = Rule(
    "S5.debug-gate",
    "A run with its debug output off then trains otherwise than the one observed.",
    _run,
    ("backward", ".step("),
)
