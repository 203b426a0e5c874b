"""S5: backward or step after the loop over the batches instead of inside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import Event, Loop, is_loader_loop, of_kind
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    Scope,
    bound_names,
    inside,
    last,
    own,
    walk,
)

__all__ = ["RULE"]

VALIDATION = ("val", "valid", "test", "eval", "dev")


def _run(source: Source) -> Iterator[Hit]:
    for scope, found in source.training:
        for block in _blocks(scope):
            for loop in filter(is_loader_loop, block):
                after = block[block.index(loop) + 1 :]
                yield from _judged(loop, after, found)  # type: ignore[arg-type]


def _blocks(scope: Scope) -> Iterator[list[ast.stmt]]:
    for node in [scope, *own(scope)]:
        if node is not scope and isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            continue
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                yield block


def _judged(loop: Loop, after: list[ast.stmt], found: list[Event]) -> Iterator[Hit]:
    """What belongs into the loop but stands in the statements after it."""
    here = [event for event in found if loop in event.loops]
    nodes = {id(node) for statement in after for node in inside([statement])}
    later = [event for event in found if id(event.node) in nodes]
    later = [event for event in later if not any(map(is_loader_loop, event.loops[-1:]))]
    if not of_kind(here, "backward"):
        for event in of_kind(later, "backward"):
            if event.who in _only_assigned(loop) and of_kind(later, "step"):
                yield _last_batch_only(event, loop)
        return
    if of_kind(here, "step"):
        return
    for event in of_kind(later, "step"):
        if not any(event.who == e.who for e in found if e.kind == "step" and e in here):
            yield _once(event, loop, is_wiped=bool(of_kind(here, "zero")))


def _only_assigned(loop: Loop) -> set[str]:
    """Losses that each batch writes anew, with nothing of the batch before."""
    fresh: set[str] = set()
    kept: set[str] = set()
    for node in inside(loop.body):
        if isinstance(node, ast.Assign) and isinstance(
            node.value, ast.Call | ast.BinOp
        ):
            names = {n for target in node.targets for n in bound_names(target)}
            read = {n.id for n in walk(node.value) if isinstance(n, ast.Name)}
            (kept if names & read else fresh).update(names)
        elif isinstance(node, ast.AugAssign):
            kept.update(bound_names(node.target))
        elif isinstance(node, ast.Call) and last(node) in ("append", "extend"):
            kept.update(n.id for n in walk(node) if isinstance(n, ast.Name))
    return {name for name in fresh - kept if "loss" in name.lower()}


def _last_batch_only(event: Event, loop: Loop) -> Hit:
    return Hit(
        line=event.node.lineno,
        title=f"{event.who}.backward() stands after the loop over the batches",
        expected="backward and step for each batch, inside the loop",
        actual=f"the loop of line {loop.lineno} above only computes {event.who}: "
        "the last batch alone trains, once per pass",
        fix="Indent backward, step and zero_grad into the loop.",
    )


def _once(event: Event, loop: Loop, *, is_wiped: bool) -> Hit:
    lost = "and zero_grad in the loop leaves it the last batch" if is_wiped else ""
    return Hit(
        line=event.node.lineno,
        title=f"{event.who} steps after the loop over the batches: once per pass",
        expected="an update per batch, or per window of accumulated batches",
        actual=f"backward in the loop, step after it {lost}".strip(),
        fix="Indent the step into the loop; accumulate over a fixed number of batches "
        "if larger windows are wanted.",
        severity="fail" if is_wiped else "warn",
    )


RULE = Rule(
    "S5.outside-loop",
    "An indentation can turn a whole pass over the data into one update; a run of "
    "months went by so.",
    _run,
    (".backward(",),
)
