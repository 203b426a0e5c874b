"""S5: tensors that are kept beyond a call with the graph behind them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from nbutils.preflight.lints.syntax import dotted, last, walk, words
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE", "resets"]

CUTS = {"item", "detach", "tolist", "numpy", "cpu", "float", "int"}
VALUES = {"loss", "losses", "logits", "outputs", "output", "out", "pred", "preds"}
VALUES |= {"features", "hidden", "ce", "mse", "kl", "total"}


def resets(pieces: Sequence[Piece]) -> set[str]:
    """Last names of what some piece empties or makes anew outside a constructor."""
    found: set[str] = set()
    for piece in pieces:
        for node in piece.nodes:
            if isinstance(node, ast.Assign) and piece.role != "init":
                found |= {dotted(t).rpartition(".")[2] for t in node.targets}
            elif isinstance(node, ast.Call) and last(node) in (
                "clear",
                "pop",
                "popleft",
            ):
                found.add(dotted(getattr(node.func, "value", None)).rpartition(".")[2])
            elif isinstance(node, ast.Delete):
                found |= {
                    dotted(getattr(t, "value", t)).rpartition(".")[2]
                    for t in node.targets
                }
    return found


def _run(piece: Piece) -> Iterator[Note]:
    for node in piece.nodes:
        if isinstance(node, ast.Call) and last(node) == "append" and node.args:
            owner = dotted(getattr(node.func, "value", None))
            if _outlives(piece, owner) and _is_attached(piece, node.args[0]):
                yield _note(piece, node, owner, node.args[0])
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            owner = dotted(node.target)
            if _outlives(piece, owner) and _is_attached(piece, node.value):
                yield _note(piece, node, owner, node.value)


def _outlives(piece: Piece, owner: str) -> bool:
    """Whether a name belongs to ``self`` or stands outside, and is never emptied."""
    first = owner.split(".")[0]
    is_local = first in piece.arguments[1:] or first in piece.stored
    if first in piece.stored and "." not in owner:
        declared = (n for n in piece.nodes if isinstance(n, (ast.Global, ast.Nonlocal)))
        is_local = not any(first in node.names for node in declared)
    if not owner or is_local or (first in piece.arguments and "." not in owner):
        return False
    found = piece.resolve(ast.parse(owner, mode="eval").body)
    is_bounded = getattr(found, "maxlen", None) is not None
    return not is_bounded and owner.rpartition(".")[2] not in piece.found["resets"]


def _is_attached(piece: Piece, value: ast.expr) -> bool:
    """A plain name that reads like a loss or an output, and was not cut."""
    if not isinstance(value, ast.Name):
        return False
    made = piece.value(value)
    for node in walk(made) if made is not value and made is not None else ():
        if isinstance(node, ast.Call) and last(node) in CUTS:
            return False
    return bool(VALUES & set(words(value.id)))


def _note(piece: Piece, node: ast.AST, owner: str, value: ast.expr) -> Note:
    return Note(
        line=node.lineno,  # type: ignore[attr-defined]
        title=f"{owner} keeps the graph of every batch: memory grows until it ends",
        expected=f"{ast.unparse(value)}.detach() in what is kept",
        actual=f"{ast.unparse(node)[:80]}, and nothing empties it",
        fix=f"Keep {ast.unparse(value)}.detach(), or .item() now and then.",
    )


RULE = Rule(id="S5.graph-kept", run=_run, roles=("model", "forward", "loss"))
