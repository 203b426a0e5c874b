"""S5: validation that records gradients."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.steps import is_loader_loop, iterated
from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    calls,
    dotted,
    has_word,
    last,
    root,
    walk,
)

__all__ = ["RULE"]

HELD_OUT = {"val", "valid", "validation", "test", "eval", "dev"}
OFF = {"no_grad", "inference_mode", "set_grad_enabled", "enable_grad", "grad_enabled"}
USES = {"backward", "grad", "requires_grad_", "manual_backward", "jacobian"}


def _run(source: Source) -> Iterator[Hit]:
    if any(_names(node) & {"set_grad_enabled"} for node in calls(source.tree.body)):
        return
    models = _models(source.tree)
    under = _called_off(source.tree)
    for loop, around in _loops(source.tree, ()):
        names = [a.name for a in around if isinstance(a, FUNCTIONS)]
        if any(map(_is_off, around)) or under & set(names):
            continue
        is_known = not names or names[-1] in _called(source.tree)
        if is_known and _is_held_out(loop) and _judges(loop, models):
            yield _hit(loop)


def _is_held_out(loop: ast.For | ast.AsyncFor) -> bool:
    return has_word(root(iterated(loop)).rpartition(".")[2], HELD_OUT)


def _judges(loop: ast.For | ast.AsyncFor, models: set[str]) -> bool:
    """A forward pass of a model, and neither a backward nor its own no_grad."""
    found = list(calls(loop.body))
    named = {last(call) for call in found}
    off = any(_is_off(node) for node in walk(loop))
    is_forward = any(dotted(call.func) in models and call.args for call in found)
    return is_forward and not off and not named & (USES | OFF)


def _loops(
    node: ast.AST, around: tuple[ast.AST, ...]
) -> Iterator[tuple[ast.For | ast.AsyncFor, tuple[ast.AST, ...]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.For, ast.AsyncFor)) and is_loader_loop(child):
            yield child, around
        yield from _loops(child, (*around, child))


def _is_off(node: ast.AST) -> bool:
    """``with torch.no_grad():``, or a function decorated so."""
    if isinstance(node, (ast.With, ast.AsyncWith)):
        return any(_names(item.context_expr) for item in node.items)
    if isinstance(node, FUNCTIONS):
        return any(_names(decorator) for decorator in node.decorator_list)
    return False


def _names(node: ast.AST) -> set[str]:
    return {last(node)} & OFF or {
        part.attr for part in walk(node) if isinstance(part, ast.Attribute)
    } & OFF


def _models(tree: ast.Module) -> set[str]:
    """Names whose ``train()``, ``eval()`` or ``parameters()`` is called."""
    return {
        dotted(node.value)
        for node in walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("eval", "parameters")
    } - {""}


def _called(tree: ast.Module) -> set[str]:
    return {last(node) for node in walk(tree) if isinstance(node, ast.Call)}


def _called_off(tree: ast.Module) -> set[str]:
    """Functions that are called where gradients are off."""
    return {
        last(call)
        for node in walk(tree)
        if _is_off(node)
        for call in calls(getattr(node, "body", []))
    }


def _hit(loop: ast.For | ast.AsyncFor) -> Hit:
    return Hit(
        line=loop.lineno,
        title=f"the loop over {root(iterated(loop))} records gradients",
        expected="torch.no_grad() or torch.inference_mode() around validation",
        actual="a forward pass for each batch, its graph recorded for nothing",
        fix="Put the loop under `with torch.inference_mode():`.",
        severity="warn",
    )


RULE = Rule(
    "S5.validation-grad",
    "Twice the memory and time of validation; sums of losses keep all graphs.",
    _run,
    ("loader", "dl"),
)
