"""S5: a long run that saves for the first time at its end."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import of_kind
from nbutils.preflight.lints.syntax import (
    calls,
    dotted,
    last,
    literal,
    walk,
    words,
)

__all__ = ["RULE"]

MIN_EPOCHS = 50


def _run(source: Source) -> Iterator[Hit]:
    numbers = _numbers(source.tree)
    for scope, found in source.training:
        loops = {
            id(e.loops[0]): e.loops[0] for e in of_kind(found, "backward") if e.loops
        }
        for loop in loops.values():
            epochs = _epochs(loop, numbers)
            inner = {last(call) for call in calls(loop.body)}
            saves = [
                c
                for c in calls(scope.body)
                if _is_save(c) and c.lineno > (loop.end_lineno or 0)
            ]
            may_save = any("save" in name or "checkpoint" in name for name in inner)
            if saves and epochs >= MIN_EPOCHS and not may_save:
                yield Hit(
                    line=saves[0].lineno,
                    title=f"the first save comes after all {epochs} epochs",
                    expected="a checkpoint every so often, and one to resume from",
                    actual=f"{ast.unparse(saves[0])[:80]} after the loop, none in it",
                    fix="Save in the loop, with optimizer and schedule.",
                    severity="warn",
                )


def _is_save(call: ast.Call) -> bool:
    return dotted(call.func) in ("torch.save", "save_file") or (
        last(call) in ("save_pretrained", "save_checkpoint")
    )


def _epochs(loop: ast.AST, numbers: dict[str, int]) -> int:
    """The length of ``for epoch in range(...)``; 0 where it is not known."""
    if not isinstance(loop, ast.For) or "epoch" not in words(ast.unparse(loop.target)):
        return 0
    ranges = [
        n for n in walk(loop.iter) if isinstance(n, ast.Call) and last(n) == "range"
    ]
    if not ranges or not ranges[0].args:
        return 0
    end = ranges[0].args[min(1, len(ranges[0].args) - 1)]
    value = numbers.get(dotted(end), literal(end))
    return value if isinstance(value, int) else 0


def _numbers(tree: ast.Module) -> dict[str, int]:
    return {
        dotted(node.targets[0]): literal(node.value)
        for node in walk(tree)
        if isinstance(node, ast.Assign) and isinstance(literal(node.value), int)
    }


RULE = Rule(
    "S5.late-save",
    "Whatever ends the run early then takes all of it along.",
    _run,
    (".backward(",),
)
