"""Where a forward pass or a loss leaves the graph: told, since it is often meant."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import torch
from torch.nn import functional

from nbutils.preflight.lints.syntax import MISSING, argument, last, literal
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]

CUTS = {"detach", "numpy", "item", "argmax", "tolist"}
NO_GRAD = {"no_grad", "inference_mode"}
SOFTMAXES = (functional.softmax, functional.log_softmax, torch.softmax)


def _run(piece: Piece) -> Iterator[Note]:
    for node in piece.nodes:
        if isinstance(node, ast.With):
            for item in node.items:
                if last(item.context_expr) in NO_GRAD:
                    yield _told(item.context_expr, "no gradient below")
        elif isinstance(node, ast.Call):
            is_method = isinstance(node.func, ast.Attribute)
            if is_method and last(node) in CUTS:
                yield _told(node, "leaves the graph")
            elif is_method and last(node) == "squeeze" and not node.args:
                yield _told(node, "drops the batch axis of a batch of one")
            else:
                yield from _softmax(piece, node)
        elif isinstance(node, ast.Attribute) and node.attr == "data":
            yield _told(node, "leaves the graph")


def _softmax(piece: Piece, call: ast.Call) -> Iterator[Note]:
    found = piece.resolve(call.func)
    if found is MISSING or not any(found is known for known in SOFTMAXES):
        return
    dim = argument(call, "dim", 1)
    if dim is None:
        yield _told(call, "no dim: over axis 0 where there are 1 or 3 of them")
    elif literal(dim) == 0:
        yield _told(call, "over axis 0, which is the samples if it is the batch")


def _told(node: ast.AST, what: str) -> Note:
    line = node.lineno  # type: ignore[attr-defined]
    return Note(line=line, title=f"{ast.unparse(node)[:70]}: {what}", kind="tell")


RULE = Rule(id="S5.cut", run=_run, roles=("model", "forward", "loss"))
