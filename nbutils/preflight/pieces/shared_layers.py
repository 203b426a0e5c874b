"""S5: one layer many times, where many layers were meant."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torch import nn

from nbutils.preflight.lints.syntax import literal
from nbutils.preflight.pieces.made_in_forward import WITH_WEIGHTS
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]


def _run(piece: Piece) -> Iterator[Note]:
    if not isinstance(piece.live, nn.Module):
        return
    for node in piece.nodes:
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
            continue
        for listed, count in ((node.left, node.right), (node.right, node.left)):
            if not isinstance(listed, ast.List) or literal(count) in (0, 1):
                continue
            made = next((e for e in listed.elts if _makes_layer(piece, e)), None)
            if made is not None:
                yield Note(
                    line=node.lineno,
                    title="one layer is listed many times: all share its weights",
                    expected="a layer of its own at each place",
                    actual=f"{ast.unparse(node)[:80]} holds one object",
                    fix=f"Write [{ast.unparse(made)[:60]} for _ in range(...)].",
                )


def _makes_layer(piece: Piece, node: ast.expr) -> bool:
    """A call that makes a layer with weights, right inside the list."""
    if not isinstance(node, ast.Call):
        return False
    found = piece.resolve(node.func)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        return False
    own = found.__module__.partition(".")[0] != "torch"
    return own or issubclass(found, WITH_WEIGHTS)


RULE = Rule(id="S5.shared-layer", run=_run, roles=("init",))
