"""S5: work of the loop that a loss or a forward pass does as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.syntax import dotted, has_word, last
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]

COUNTS = {"accum", "accumulation", "accumulate", "accumulations"}


def _run(piece: Piece) -> Iterator[Note]:
    for node in piece.nodes:
        if isinstance(node, ast.Call) and last(node) == "backward":
            if isinstance(node.func, ast.Attribute) and not _is_function(piece, node):
                yield _backward(piece, node)
        elif piece.role == "loss" and isinstance(node, (ast.BinOp, ast.AugAssign)):
            divisor = node.right if isinstance(node, ast.BinOp) else node.value
            name = dotted(divisor).rpartition(".")[2]
            if isinstance(node.op, ast.Div) and has_word(name, COUNTS):
                yield _scaled(node, name)


def _is_function(piece: Piece, call: ast.Call) -> bool:
    """``Function.backward(ctx, grad)`` of one's own."""
    return isinstance(piece.resolve(getattr(call.func, "value", None)), type)


def _backward(piece: Piece, call: ast.Call) -> Note:
    return Note(
        line=call.lineno,
        title=f"backward() inside the {piece.role}",
        expected="one backward pass for a batch, made by the loop",
        actual=f"{ast.unparse(call)[:80]}: gradients are added twice, or the graph is "
        "gone when the loop comes",
        fix="Return the loss; for a gradient inside a loss use torch.autograd.grad.",
    )


def _scaled(node: ast.BinOp | ast.AugAssign, name: str) -> Note:
    return Note(
        line=node.lineno,
        title="the loss is divided by the accumulation, and the loop does that too",
        expected="the mean loss of the batch",
        actual=f"{ast.unparse(node)[:80]}: the gradient is {name} times too small",
        fix=f"Leave out / {name}; the setting accumulation is all that is needed.",
    )


RULE = Rule(id="S5.inner-step", run=_run, roles=("model", "forward", "loss"))
