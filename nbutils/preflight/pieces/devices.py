"""S5: a device that is written into the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.syntax import argument, last, literal, walk
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]


def _run(piece: Piece) -> Iterator[Note]:
    asked = {
        id(inner)
        for node in piece.nodes
        if isinstance(node, (ast.If, ast.IfExp))
        and ("cuda" in ast.unparse(node.test) or "device" in ast.unparse(node.test))
        for inner in walk(node)
    }
    for call in piece.calls():
        name = last(call)
        given = argument(call, "device", 0 if name in ("to", "device") else None)
        told = literal(given)
        is_written = isinstance(told, str) and told.startswith("cuda")
        is_cuda = name == "cuda" and isinstance(call.func, ast.Attribute)
        if (is_written or is_cuda) and id(call) not in asked:
            yield Note(
                line=call.lineno,
                title="the device is written into the code",
                expected="tensors made on the device of the input",
                actual=ast.unparse(call)[:80],
                fix="Use the input's device: torch.zeros(n, device=x.device).",
                kind="tell",
            )


RULE = Rule(
    id="S5.device", run=_run, roles=("model", "forward", "loss", "metric", "init")
)
