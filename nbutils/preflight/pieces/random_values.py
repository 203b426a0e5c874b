"""S5: random numbers in the place of targets, inputs or outputs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.syntax import argument, dotted, has_word, literal
from nbutils.preflight.pieces.piece import Note, Piece, Rule
from nbutils.preflight.pieces.torch_calls import is_random, loss_name

__all__ = ["RULE"]

ABOUT_FORM = {"shape", "size", "device", "dtype", "ndim", "dim", "new_empty"}
LABELS = {"label", "labels", "target", "targets", "cls", "class"}


def _run(piece: Piece) -> Iterator[Note]:
    yield from _random_targets(piece)
    if piece.role in ("model", "forward"):
        yield from _replaced_inputs(piece)
        if piece.is_root:
            yield from _random_outputs(piece)
    if piece.role == "data":
        yield from _random_labels(piece)


def _random_targets(piece: Piece) -> Iterator[Note]:
    """A loss against noise that nothing else in the function uses."""
    for call in piece.calls():
        name = loss_name(piece, call)
        target = argument(call, "target", 1) if name else None
        if target is None or not is_random(piece, target):
            continue
        if isinstance(target, ast.Name) and len(piece.loads(target.id)) > 1:
            continue  # noise that was also added to the input: it can be predicted
        yield Note(
            line=call.lineno,
            title="the loss compares with random numbers",
            expected="targets that belong to the batch",
            actual=f"{ast.unparse(call)[:100]}: the target is drawn anew at each call",
            fix="Pass the targets of the batch.",
        )


def _replaced_inputs(piece: Piece) -> Iterator[Note]:
    """``x = torch.randn_like(x)`` before ``x`` was used for anything but its form."""
    for statement in piece.body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        name = dotted(statement.targets[0])
        is_input = name in piece.arguments and name not in ("self", "model")
        if not is_input or not is_random(piece, statement.value):
            continue
        earlier = [n for n in piece.loads(name) if n.lineno < statement.lineno]
        if all(_asks_form(piece, node) for node in earlier):
            yield Note(
                line=statement.lineno,
                title="the input is replaced by random numbers",
                expected="outputs that depend on the input",
                actual=ast.unparse(statement)[:100],
                fix="Remove the line, or use another name for the noise.",
            )


def _asks_form(piece: Piece, name: ast.Name) -> bool:
    for node in ast.walk(piece.node):
        if isinstance(node, ast.Attribute) and node.value is name:
            return node.attr in ABOUT_FORM
        if (
            isinstance(node, ast.Call)
            and dotted(node.func) == "len"
            and name in node.args
        ):
            return True
    return False


def _random_outputs(piece: Piece) -> Iterator[Note]:
    is_whole = piece.role == "forward" or piece.found.get("is_task_model")
    for node in piece.body if is_whole else ():
        if isinstance(node, ast.Return) and is_random(piece, node.value):
            yield Note(
                line=node.lineno,
                title="forward returns random numbers",
                expected="outputs that are computed by the layers",
                actual=ast.unparse(node)[:100],
                fix="Return what the layers compute.",
            )


def _random_labels(piece: Piece) -> Iterator[Note]:
    """A label drawn at each read, beside an input that is read."""
    for node in piece.nodes:
        if not isinstance(node, ast.Return):
            continue
        parts = list(_named_parts(node.value))
        real = [part for _, part in parts if _is_read(piece, part)]
        for name, part in parts if real else ():
            if has_word(name, LABELS) and is_random(piece, part):
                yield Note(
                    line=node.lineno,
                    title="labels are drawn at random at each read",
                    expected="the label that belongs to the sample",
                    actual=f"{name} = {ast.unparse(piece.value(part) or part)[:80]}",
                    fix="Read the label of the sample.",
                )


def _named_parts(value: ast.AST | None) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(value, ast.Tuple):
        yield from ((dotted(part), part) for part in value.elts)
    elif isinstance(value, ast.Dict):
        for key, part in zip(value.keys, value.values, strict=True):
            name = literal(key)
            yield (name if isinstance(name, str) else dotted(part)), part


def _is_read(piece: Piece, part: ast.expr) -> bool:
    """Whether something of ``self`` is indexed for it."""
    value = piece.value(part) or part
    return any(
        isinstance(node, ast.Subscript) and dotted(node.value).startswith("self.")
        for node in ast.walk(value)
    )


RULE = Rule(id="S5.random-values", run=_run, roles=("loss", "forward", "model", "data"))
