"""S5: gradients that are never zeroed, or zeroed before they are used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import (
    Event,
    between,
    is_compatible,
    of_kind,
    optimizer_names,
)
from nbutils.preflight.lints.syntax import (
    dotted,
    walk,
)

__all__ = ["RULE"]

_CLEARED = re.compile(r"zero_grad|\.grad\s*=|\.grad\.zero_|set_to_none|clear_grad")
MODELS = {"model", "net", "network", "self.model", "self.net"}


def _run(source: Source) -> Iterator[Hit]:
    for _, found in source.training:
        steps = of_kind(found, "step")
        for step in steps:
            yield from _wiped(step, found)
            yield from _wiped_window(step, found)
        yield from _never(source, found)


def _wiped(step: Event, found: list[Event]) -> Iterator[Hit]:
    """Between the last backward and the step, on the way to it."""
    before = found[: found.index(step)]
    reached = [e for e in of_kind(before, "backward") if _leads(e, step)]
    if not reached:
        return
    for event in between(found, reached[-1], step):
        is_same = event.kind == "zero" and _same(event, step, found)
        is_on_the_way = _leads(event, step) and set(event.path) <= set(step.path)
        if is_same and is_on_the_way and is_compatible(event.path, reached[-1].path):
            yield Hit(
                line=event.node.lineno,
                title=f"gradients are zeroed before {step.who} steps",
                expected="zero_grad, backward, step; or backward, step, zero_grad",
                actual="backward, zero_grad, step: every gradient is zero",
                fix="Move zero_grad before backward, or after the step.",
            )


def _leads(event: Event, step: Event) -> bool:
    """In the same turn of the same loop."""
    return event.loops == step.loops and is_compatible(event.path, step.path)


def _same(zero: Event, step: Event, found: list[Event]) -> bool:
    """Whether what is zeroed is what the step reads."""
    is_only = len({event.who for event in of_kind(found, "step")}) == 1
    return zero.who == step.who or (is_only and zero.who in MODELS)


def _wiped_window(step: Event, found: list[Event]) -> Iterator[Hit]:
    """Zeroed for each batch, stepped every n-th: only the last of n counts."""
    if not step.loops:
        return
    gates = [branch for branch, arm in step.path if arm == "body"]
    counted = [n for n in _counting(step.loops[-1]) if id(n) in gates]
    if not counted:
        return
    here = [event for event in found if event.loops == step.loops]
    outside = [e for e in here if (id(counted[0]), "body") not in e.path]
    zeros = [e for e in of_kind(outside, "zero") if _same(e, step, found)]
    backs = of_kind(outside, "backward")
    is_plain = zeros and backs and not (set(zeros[0].path) - set(step.path))
    if is_plain and zeros[0].node.lineno < backs[0].node.lineno:
        yield Hit(
            line=zeros[0].node.lineno,
            title="accumulated gradients are zeroed with every batch",
            expected="zero_grad together with the step, once per window",
            actual=f"zero_grad for each batch, step under "
            f"`if {ast.unparse(counted[0].test)}:`",
            fix=f"Move zero_grad into that branch, after {step.who}.step().",
        )


def _counting(loop: ast.AST) -> Iterator[ast.If]:
    """Branches taken every n-th time."""
    for node in walk(loop):
        if isinstance(node, ast.If):
            parts = [p for p in walk(node.test) if isinstance(p, ast.BinOp)]
            if any(isinstance(part.op, ast.Mod) for part in parts):
                yield node


def _never(source: Source, found: list[Event]) -> Iterator[Hit]:
    """A loop of backward and step, and nothing in the file that zeroes anything."""
    if _CLEARED.search(source.text):
        return
    for step in of_kind(found, "step"):
        backs = [e for e in of_kind(found, "backward") if e.loops == step.loops]
        has_closure = bool(step.node.args) and not step.via
        is_plain = "." not in step.who.removeprefix("self.")
        is_renewed = any(step.who in optimizer_names(loop) for loop in step.loops)
        if step.loops and backs and is_plain and not has_closure and not is_renewed:
            made = step.who in _made(source)
            yield Hit(
                line=step.node.lineno,
                title=f"{step.who} steps in a loop, and nothing zeroes the gradients",
                expected="zero_grad once per update",
                actual="backward adds to the gradients of all batches before",
                fix=f"Call {step.who}.zero_grad() after each step.",
                severity="fail" if made else "warn",
            )
            return


def _made(source: Source) -> set[str]:
    """Names bound to an optimizer of torch anywhere in the file."""
    return {
        dotted(target)
        for node in walk(source.tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and "optim" in dotted(node.value.func)
        for target in node.targets
    }


RULE = Rule(
    "S5.zero-grad",
    "Gradients that pile up, or are wiped before the step, train something else.",
    _run,
    (".step(",),
)
