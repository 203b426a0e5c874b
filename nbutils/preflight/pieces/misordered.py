"""S5: inputs and labels that a collate or a dataset brings into different orders."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator

from nbutils.preflight.lints.syntax import (
    bound_names,
    dotted,
    has_word,
    last,
    walk,
)
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]

LABELS = {"label", "labels", "target", "targets", "class", "classes", "caption"}
LABELS |= {"captions", "y", "ys"}


def _run(piece: Piece) -> Iterator[Note]:
    if piece.role == "collate":
        yield from _sorted_alone(piece)
    elif piece.name.endswith("__getitem__"):
        yield from _other_index(piece)


def _sorted_alone(piece: Piece) -> Iterator[Note]:
    """``xs = sorted(xs, key=len)`` beside ``ys`` in the order of the samples."""
    columns = set(_columns(piece))
    moved: dict[str, ast.AST] = {}
    for node in piece.nodes:
        if name := _reordered(piece, node, columns):
            moved.setdefault(name, node)
    rest = [name for name in columns - set(moved) if piece.loads(name)]
    if len(moved) != 1 or not rest:
        return
    name, node = next(iter(moved.items()))
    uses = [n for n in ast.walk(piece.node) if isinstance(n, ast.Call)]
    if any(
        last(call) in ("argsort", "index_select", "zip")
        for call in uses
        if name in map(dotted, call.args)
    ):
        return
    yield Note(
        line=node.lineno,  # type: ignore[attr-defined]
        title="inputs and labels are put into different orders",
        expected="samples that are sorted as a whole",
        actual=f"{ast.unparse(node)[:80]}, and {', '.join(sorted(rest))} keep theirs",
        fix="Sort the samples before they are taken apart.",
    )


def _columns(piece: Piece) -> Iterator[str]:
    """Lists with one entry a sample: of ``zip(*samples)``, or taken one by one."""
    samples = next((a for a in piece.arguments if a != "self"), "")
    for node in piece.nodes:
        if not isinstance(node, ast.Assign):
            continue
        value = node.value
        starred = value.args if isinstance(value, ast.Call) else []
        if dotted(getattr(value, "func", None)) == "zip" and any(
            isinstance(a, ast.Starred) and dotted(a.value) == samples for a in starred
        ):
            yield from bound_names(node.targets[0])
        is_list = isinstance(value, ast.ListComp) and len(value.generators) == 1
        source = value.generators[0].iter if is_list else None  # type: ignore[union-attr]
        if is_list and dotted(source) == samples:
            yield from bound_names(node.targets[0])


def _reordered(piece: Piece, node: ast.AST, columns: set[str]) -> str:
    """The column that a statement brings into an order of its own."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        call = node.value
        while dotted(call.func) in ("list", "tuple") and call.args:
            if not isinstance(call.args[0], ast.Call):
                return ""
            call = call.args[0]
        target = dotted(node.targets[0])
        if dotted(call.func) in ("sorted", "reversed") and call.args:
            name = dotted(call.args[0])
            return name if name in columns and name == target else ""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        owner = dotted(getattr(call.func, "value", None))
        if last(call) in ("sort", "reverse") and owner in columns:
            return owner
        is_shuffle = piece.resolve(call.func) in (random.shuffle,)
        name = dotted(call.args[0]) if call.args else ""
        return name if is_shuffle and name in columns else ""
    return ""


def _other_index(piece: Piece) -> Iterator[Note]:
    """``self.images[i]`` with ``self.labels[i - 1]``."""
    index = piece.arguments[1] if len(piece.arguments) > 1 else ""
    reads = [
        node
        for node in piece.nodes
        if isinstance(node, ast.Subscript) and dotted(node.value).startswith("self.")
    ]
    plain = {dotted(n.value) for n in reads if dotted(n.slice) == index}
    for node in reads:
        name = dotted(node.value)
        is_other = name not in plain and _is_shifted(node.slice, index)
        if plain and is_other and has_word(name.rpartition(".")[2], LABELS):
            yield Note(
                line=node.lineno,
                title="the label is read at another index than the input",
                expected=f"{name}[{index}] beside {min(plain)}[{index}]",
                actual=ast.unparse(node)[:80],
                fix=f"Read {name}[{index}], unless the label of a neighbour is meant.",
                kind="tell"
                if has_word(name, {"y", "ys", "target", "targets"})
                else "warn",
            )


def _is_shifted(node: ast.expr, index: str) -> bool:
    is_sum = isinstance(node, ast.BinOp) and isinstance(
        node.op, (ast.Add, ast.Sub, ast.Mod)
    )
    is_negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    names = {n.id for n in walk(node) if isinstance(n, ast.Name)}
    return (
        (is_sum or is_negative) and names <= {index, "len", "self"} and index in names
    )


RULE = Rule(id="S5.misordered", run=_run, roles=("collate", "data"))
