"""S5: graphs of past batches that are kept alive."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import Event, is_loader_loop, of_kind
from nbutils.preflight.lints.syntax import (
    argument,
    bound_names,
    calls,
    dotted,
    inside,
    last,
    literal,
)

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    for _, found in source.training:
        backs = [e for e in of_kind(found, "backward") if e.loops]
        for back in backs:
            if is_loader_loop(back.loops[-1]):
                yield from _summed(back, backs)
                yield from _retained(back, backs)


def _summed(back: Event, backs: list[Event]) -> Iterator[Hit]:
    """``total += loss`` beside ``loss.backward()``."""
    body = back.loops[-1].body
    if not back.who or _is_detached(back, body):
        return
    yield from _appended(back)
    for node in inside(body):
        if not isinstance(node, ast.AugAssign) or not isinstance(node.op, ast.Add):
            continue
        total = dotted(node.target)
        is_trained = any(other.who == total for other in backs)
        if _adds(node.value, back.who) and total and not is_trained:
            yield Hit(
                line=node.lineno,
                title=f"{total} keeps the graph of every batch",
                expected=f"{total} += {back.who}.detach() (or .item(), which waits)",
                actual=ast.unparse(node),
                fix=f"Add {back.who}.detach().",
                severity="warn",
            )


def _appended(back: Event) -> Iterator[Hit]:
    """``losses.append(loss)`` below ``loss.backward()``."""
    for call in calls(back.loops[-1].body):
        is_kept = last(call) == "append" and len(call.args) == 1
        is_loss = is_kept and dotted(call.args[0]) == back.who
        if is_loss and call.lineno > back.node.lineno:
            yield Hit(
                line=call.lineno,
                title="a list keeps the graph of every batch",
                expected=f"append({back.who}.detach()) (or .item(), which waits)",
                actual=ast.unparse(call)[:80],
                fix=f"Append {back.who}.detach().",
                severity="warn",
            )


def _adds(value: ast.expr, who: str) -> bool:
    """``loss``, ``loss * n``, ``n * loss`` or ``loss / n``."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Mult, ast.Div)):
        return dotted(value.left) == who or dotted(value.right) == who
    return dotted(value) == who


def _is_detached(back: Event, body: list[ast.stmt]) -> bool:
    """Whether the loss is bound again after its backward."""
    return any(
        isinstance(node, ast.Assign)
        and node.lineno > back.node.lineno
        and back.who in {n for target in node.targets for n in bound_names(target)}
        for node in inside(body)
    )


def _retained(back: Event, backs: list[Event]) -> Iterator[Hit]:
    """``retain_graph=True`` where no second backward needs it."""
    is_kept = literal(argument(back.node, "retain_graph")) is True
    is_alone = sum(back.loops[-1] in other.loops for other in backs) == 1
    if (
        is_kept
        and is_alone
        and literal(argument(back.node, "create_graph")) is not True
    ):
        yield Hit(
            line=back.node.lineno,
            title="retain_graph=True, and no second backward in the loop",
            expected="one backward per batch, which frees its graph",
            actual=ast.unparse(back.node)[:80],
            fix="Leave it out. If torch then says that it goes backward twice, "
            "something of the batch before is still attached: detach that.",
            severity="warn",
        )


RULE = Rule(
    "S5.graph-kept",
    "Memory grows with every batch until the run is out of it, hours in.",
    _run,
    (".backward(",),
)
