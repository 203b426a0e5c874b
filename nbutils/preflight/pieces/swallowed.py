"""S5: an error in a reader, a model or a loss that nobody hears of."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator

from nbutils.preflight.lints.handlers import broad_handlers, random_or_constant
from nbutils.preflight.lints.syntax import bound_names, dotted, inside, last, words
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]

BROAD = {"Exception", "BaseException"}
TAKEN = {"RuntimeError", "ValueError", "IndexError", "TypeError", "ArithmeticError"}
UNREADABLE = TAKEN | {"OSError", "IOError", "UnidentifiedImageError", "EOFError"}
UNREADABLE |= {"FileNotFoundError", "KeyError", "Error", "UnicodeDecodeError"}
SHAPED = {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new"}
SHAPED |= {"rand", "randn", "randint", "rand_like", "randn_like", "randint_like"}
FLAGS = {"valid", "mask", "missing", "present", "ok", "is", "has", "found", "observed"}


def _run(piece: Piece) -> Iterator[Note]:
    for node in piece.nodes:
        if isinstance(node, ast.With) and piece.role not in ("data", "collate"):
            yield from _suppressed(piece, node)
        if not isinstance(node, ast.Try):
            continue
        broad = list(broad_handlers(node))
        for handler in node.handlers:
            inner = list(inside(handler.body))
            if any(isinstance(n, (ast.Raise, ast.Assert)) for n in inner):
                continue
            if piece.role in ("data", "collate"):
                yield from _reader(piece, node, handler, broad)
            else:
                yield from _objective(piece, node, handler, broad)


def _kinds(handler: ast.ExceptHandler) -> set[str]:
    kind = handler.type
    parts = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return {last(part) for part in parts}


def _reader(
    piece: Piece,
    node: ast.Try,
    handler: ast.ExceptHandler,
    broad: list[ast.ExceptHandler],
) -> Iterator[Note]:
    is_broad = handler in broad
    if not is_broad and not UNREADABLE & _kinds(handler):
        return
    invented = _invented(piece, handler)
    if not invented and any(map(_is_silent, handler.body)):
        invented = _kept_default(piece, node)
    if invented:
        yield Note(
            line=handler.lineno,
            title="a sample that cannot be read is replaced by an invented one",
            expected="the error raises, with the name of the sample",
            actual=f"except {_text(handler)}: {invented}, kept with the true label",
            fix="Let it raise, or list the unreadable samples before training and "
            "leave them out, within a budget.",
        )
    elif other := _other_sample(handler):
        yield Note(
            line=handler.lineno,
            title="a sample that cannot be read is silently replaced by another",
            expected="unreadable samples left out once, and counted",
            actual=f"except {_text(handler)}: {other}",
            fix="List the unreadable samples before training, and say how many.",
            kind="warn" if is_broad else "tell",
        )


def _invented(piece: Piece, handler: ast.ExceptHandler) -> str:
    """What a handler makes up; empty if it also notes that the sample is missing."""
    found = ""
    for node in inside(handler.body):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign) and _is_flag(node):
            return ""
        if not isinstance(node, (ast.Return, ast.Assign)):
            continue
        parts = value.elts if isinstance(value, ast.Tuple) else [value]
        parts = value.values if isinstance(value, ast.Dict) else parts
        if any(isinstance(p, ast.Constant) and p.value is False for p in parts):
            return ""
        found = found or next(filter(None, map(_made, parts)), "")
    return found


def _made(node: ast.AST | None) -> str:
    name = random_or_constant(node)
    if name.rpartition(".")[2] in SHAPED or name == "Image.new":
        return f"{name}(...)"
    is_picture = isinstance(node, ast.Call) and dotted(node.func).endswith("Image.new")
    return "Image.new(...)" if is_picture else ""


def _is_flag(node: ast.Assign) -> bool:
    names = {word for t in node.targets for n in bound_names(t) for word in words(n)}
    return bool(names & FLAGS)


def _kept_default(piece: Piece, node: ast.Try) -> str:
    """``image = zeros(...)`` before a ``try`` that should have read it."""
    tried = {n for s in inside(node.body) for n in _targets(s)}
    for name in tried:
        for earlier in piece.stored.get(name, []):
            is_before = getattr(earlier, "lineno", node.lineno) < node.lineno
            made = _made(getattr(earlier, "value", None)) if is_before else ""
            if made:
                return f"{name} stays {made}"
    return ""


def _targets(node: ast.AST) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [name for target in targets for name in bound_names(target)]


def _other_sample(handler: ast.ExceptHandler) -> str:
    """``return self[index + 1]`` or ``return self.__getitem__(other)``."""
    for node in inside(handler.body):
        value = node.value if isinstance(node, ast.Return) else None
        is_item = isinstance(value, ast.Subscript) and dotted(value.value) == "self"
        is_call = isinstance(value, ast.Call) and last(value) == "__getitem__"
        if is_item or is_call:
            return ast.unparse(node)[:80]
    return ""


def _objective(
    piece: Piece,
    node: ast.Try,
    handler: ast.ExceptHandler,
    broad: list[ast.ExceptHandler],
) -> Iterator[Note]:
    if handler not in broad and not TAKEN & _kinds(handler):
        return
    made = _constant(handler)
    is_silent = handler in broad and any(map(_is_silent, handler.body))
    does_work = any(
        isinstance(s, (ast.Assign, ast.AugAssign, ast.Return)) and _is_computed(s)
        for s in inside(node.body)
    )
    if not does_work or not (made or is_silent):
        return
    what = "the loss" if piece.role == "loss" else "the model"
    title = f"an error in {what} is swallowed"
    if made:
        title = f"a constant takes the place of {what} that failed"
    yield Note(
        line=handler.lineno,
        title=title,
        expected="the error ends the run",
        actual=f"except {_text(handler)}: {made or 'goes on'}; such a batch trains "
        "nothing, and the run looks healthy",
        fix="Remove the try. To survive single batches, catch the one kind of error "
        "you know, count it, and raise above a limit.",
    )


def _suppressed(piece: Piece, node: ast.With) -> Iterator[Note]:
    """``with suppress(Exception):`` around something computed."""
    for item in node.items:
        call = item.context_expr
        is_suppress = isinstance(call, ast.Call) and (
            piece.resolve(call.func) is contextlib.suppress
        )
        kinds = {last(kind) for kind in call.args} if is_suppress else set()  # type: ignore[attr-defined]
        if kinds & (TAKEN | BROAD) and any(map(_is_computed, inside(node.body))):
            what = "the loss" if piece.role == "loss" else "the model"
            yield Note(
                line=node.lineno,
                title=f"an error in {what} is swallowed",
                expected="the error ends the run",
                actual=f"{ast.unparse(call)}: what it holds is left out, and the run "
                "looks healthy",
                fix="Remove the suppress.",
            )


def _is_computed(statement: ast.AST) -> bool:
    value = getattr(statement, "value", None)
    return (
        any(isinstance(n, (ast.Call, ast.BinOp)) for n in inside([value]))
        if (isinstance(value, ast.AST))
        else False
    )


def _constant(handler: ast.ExceptHandler) -> str:
    """A constant that a handler returns or assigns, or something times 0."""
    for node in inside(handler.body):
        if not isinstance(node, (ast.Return, ast.Assign)):
            continue
        value = node.value
        parts = value.values if isinstance(value, ast.Dict) else [value]
        for part in parts:
            made = random_or_constant(part)
            is_tensor = made and isinstance(part, ast.Call)
            if (
                is_tensor
                or (made and isinstance(node, ast.Return))
                or _times_zero(part)
            ):
                return ast.unparse(node)[:80]
    return ""


def _times_zero(node: ast.AST | None) -> bool:
    is_product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
    sides = (node.left, node.right) if is_product else ()  # type: ignore[union-attr]
    return any(
        isinstance(side, ast.Constant)
        and not isinstance(side.value, bool)
        and side.value in (0, 0.0)
        for side in sides
    )


def _is_silent(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.Pass, ast.Continue)) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _text(handler: ast.ExceptHandler) -> str:
    return ast.unparse(handler.type) if handler.type else "any error"


RULE = Rule(
    id="S5.swallowed-error",
    run=_run,
    roles=("model", "forward", "loss", "data", "collate"),
)
