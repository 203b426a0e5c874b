"""S5: evaluation mode that lasts into the next pass of training."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import Event, of_kind
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    Scope,
    argument,
    calls,
    dotted,
    last,
    literal,
    walk,
)

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    setters = _setting_train(source.tree)
    for scope, found in source.training:
        for event in of_kind(found, "eval"):
            backs = [
                back
                for back in of_kind(found, "backward")
                if event.loops
                and back.loops[:1] == event.loops[:1]
                and back.node.lineno < event.node.lineno
                and back.loops[: len(event.loops)] == event.loops
            ]
            if backs and not _is_undone(event, scope, found, setters):
                yield _hit(event, found)
        yield from _by_function(source.tree, found, setters)


def _by_function(
    tree: ast.Module, found: list[Event], setters: set[str]
) -> Iterator[Hit]:
    """A function of the file that leaves its model in evaluation mode."""
    leaving = {f.name: f for f in walk(tree) if isinstance(f, FUNCTIONS) and _leaves(f)}
    outer = {id(e.loops[0]): e for e in of_kind(found, "backward") if e.loops}
    for back in outer.values():
        for call in calls(back.loops[0].body):
            function = leaving.get(dotted(call.func))
            at = -1 if function is None else _leaves(function)
            given = dotted(call.args[at - 1]) if 0 < at <= len(call.args) else ""
            if not given or call.lineno < back.node.lineno:
                continue
            event = Event("eval", given, call, (), back.loops[:1])
            if not _is_undone(event, tree, found, setters):
                yield _hit(event, found)


def _leaves(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The place, from 1, of the argument that it calls ``eval()`` of; 0: none."""
    if any(last(call) == "train" for call in calls(function.body)):
        return 0
    for call in calls(function.body):
        if last(call) == "eval" and isinstance(call.func, ast.Attribute):
            names = [argument.arg for argument in function.args.args]
            owner = dotted(call.func.value)
            return names.index(owner) + 1 if owner in names else 0
    return 0


def _is_undone(
    event: Event, scope: Scope, found: list[Event], setters: set[str]
) -> bool:
    """Whether anything in the outer loop may bring training mode back."""
    loop = event.loops[0]
    for other in of_kind(found, "train"):
        is_on = literal(argument(other.node, "mode", 0)) is not False
        if is_on and loop in other.loops:
            return True
    called = {last(call) for call in calls(loop.body)}
    if called & (setters | {"train_mode", "set_train", "train_epoch", "fit"}):
        return True
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "training"
        and isinstance(node.ctx, ast.Store)
        for node in walk(loop)
    ) or not _is_trained(event, loop)


def _is_trained(event: Event, loop: ast.AST) -> bool:
    """Whether the model of the event is called before it in the loop."""
    name = event.who
    return any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in (name, f"{name}.forward")
        and node.lineno < event.node.lineno
        for node in walk(loop)
    )


def _setting_train(tree: ast.Module) -> set[str]:
    """Functions of the file that call ``.train(``."""
    return {
        node.name
        for node in walk(tree)
        if isinstance(node, FUNCTIONS)
        and any(
            isinstance(call.func, ast.Attribute) and last(call) == "train"
            for call in calls(node.body)
        )
    }


def _hit(event: Event, found: list[Event]) -> Hit:
    is_meant = any(other.who == event.who for other in of_kind(found, "train"))
    return Hit(
        line=event.node.lineno,
        title=f"{event.who}.eval() lasts into the next pass of training",
        expected=f"{event.who}.train() at the start of each pass",
        actual="train() is called once, before the loop"
        if is_meant
        else "nothing in the loop calls train()",
        fix=f"Call {event.who}.train() first thing in the loop over the epochs.",
        severity="fail" if is_meant else "warn",
    )


RULE = Rule(
    "S5.eval-mode",
    "Dropout and batch statistics are off from the second epoch on.",
    _run,
    (".eval(",),
)
