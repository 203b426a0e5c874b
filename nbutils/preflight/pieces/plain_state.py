"""S5: a running average that no checkpoint holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torch import Tensor, nn

from nbutils.preflight.lints.syntax import dotted, walk
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]


def _run(piece: Piece) -> Iterator[Note]:
    if not isinstance(piece.live, nn.Module):
        return
    for node in piece.nodes:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        first, _, name = dotted(node.targets[0]).partition(".")
        held = vars(piece.live).get(name) if first == "self" else None
        is_average = isinstance(node.value, ast.BinOp) and any(
            isinstance(n, ast.Attribute) and dotted(n) == f"self.{name}"
            for n in walk(node.value)
        )
        is_plain = isinstance(held, Tensor) and not isinstance(held, nn.Parameter)
        if is_plain and is_average:
            yield Note(
                line=node.lineno,
                title=f"self.{name} is state, and no buffer: a checkpoint loses it",
                expected="register_buffer in __init__, so that it is saved and moved",
                actual=f"{ast.unparse(node)[:80]}; self.{name} is a plain tensor",
                fix=f'self.register_buffer("{name}", ...) in __init__, and '
                f"self.{name}.copy_(...) under no_grad here.",
            )


RULE = Rule(id="S5.plain-state", run=_run, roles=("model", "loss"))
