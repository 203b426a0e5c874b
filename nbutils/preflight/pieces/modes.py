"""S5: parts that do not follow train and eval mode, and code that switches it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torch import nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from nbutils.preflight.lints.syntax import (
    MISSING,
    argument,
    dotted,
    last,
    literal,
    walk,
)
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]

DROPOUTS = {"dropout": 2, "dropout1d": 2, "dropout2d": 2, "dropout3d": 2}
DROPOUTS |= {"alpha_dropout": 2, "feature_alpha_dropout": 2}
ATTENTION = functional.scaled_dot_product_attention


def _run(piece: Piece) -> Iterator[Note]:
    guarded = _guarded(piece)
    for call in piece.calls():
        if id(call) in guarded:
            continue
        yield from _dropout(piece, call)
        yield from _switch(piece, call)


def _guarded(piece: Piece) -> set[int]:
    """Nodes below a test of ``training``."""
    tests = (ast.If, ast.IfExp)
    return {
        id(inner)
        for node in piece.nodes
        if isinstance(node, tests) and "training" in ast.unparse(node.test)
        for inner in walk(node)
    }


def _dropout(piece: Piece, call: ast.Call) -> Iterator[Note]:
    found, name = piece.resolve(call.func), last(call)
    if found is MISSING and isinstance(call.func, ast.Call):
        made = piece.resolve(call.func.func)
        if isinstance(made, type) and issubclass(made, _DropoutNd):
            yield _always_on(call, f"nn.{made.__name__} made in place is always on")
    elif name in DROPOUTS and found is getattr(functional, name):
        training = argument(call, "training", DROPOUTS[name])
        share = literal(argument(call, "p", 1))
        if training is None and share != 0:
            yield _always_on(call, f"F.{name} without training= is always on")
    elif found is ATTENTION:
        share = argument(call, "dropout_p", 4)
        value = literal(share) if share is not None else 0
        value = piece.resolve(share) if value is MISSING else value
        if isinstance(value, (int, float)) and value > 0:
            told = f"dropout_p = {value:g} whatever the mode"
            yield _always_on(call, told)


def _always_on(call: ast.Call, told: str) -> Note:
    return Note(
        line=call.lineno,
        title="dropout stays on in eval mode",
        expected="dropout that follows model.eval()",
        actual=f"{ast.unparse(call)[:80]}: {told}",
        fix="Pass training=self.training (dropout_p=self.p if self.training else 0.0), "
        'or use an nn.Dropout made in __init__; if it is meant, declare "random in '
        'eval".',
    )


def _switch(piece: Piece, call: ast.Call) -> Iterator[Note]:
    """``self.eval()`` in forward, or ``model.train()`` in a task's forward."""
    if last(call) not in ("eval", "train") or not isinstance(call.func, ast.Attribute):
        return
    who = dotted(call.func.value)
    first = piece.arguments[0] if piece.arguments else ""
    is_whole = piece.role in ("model", "forward") and who == first
    is_whole = is_whole and (
        piece.role == "forward" or isinstance(piece.live, nn.Module)
    )
    if not is_whole or (piece.role == "model" and not piece.found.get("is_task_model")):
        return
    mode = last(call)
    lost = "dropout and batch statistics are off while it trains"
    if mode == "train":
        lost = "validation runs with dropout and batch statistics of its own"
    yield Note(
        line=call.lineno,
        title=f"forward switches the model to {mode} mode",
        expected="the mode that the loop set",
        actual=f"{ast.unparse(call)}: {lost}",
        fix="Remove the line; the loop sets the mode.",
    )


RULE = Rule(id="S5.mode", run=_run, roles=("model", "forward"))
