"""Arguments of the user's own constructors that nothing reads."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from nbutils.preflight.lints.syntax import has_word, last, literal, walk
from nbutils.preflight.pieces.piece import Note, Piece

__all__ = ["unread_arguments"]

KNOBS = {"dropout", "drop", "p", "layers", "depth", "heads", "hidden", "bias", "eps"}
KNOBS |= {"momentum", "temperature", "margin", "alpha", "beta", "gamma", "smoothing"}
KNOBS |= {"weight", "weights", "scale", "width", "dim", "channels", "kernel", "stride"}
KNOBS |= {"classes", "size", "activation", "norm", "pretrained", "freeze", "sigma"}
OPEN = {"locals", "vars", "globals", "eval", "exec", "save_hyperparameters"}
EMPTY = (ast.Pass, ast.Raise)


def unread_arguments(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Note]]:
    """Each constructor of a module or a dataset that leaves an argument unread."""
    for piece in pieces:
        if piece.role != "init" or _is_open(piece):
            continue
        for name in _unread(piece):
            yield piece, _note(piece, name)


def _is_open(piece: Piece) -> bool:
    """Whether the arguments may be read in a way that cannot be seen."""
    called = {last(node) for node in walk(piece.node) if isinstance(node, ast.Call)}
    body = [s for s in piece.body if not _is_docstring(s)]
    return bool(called & OPEN) or all(isinstance(s, EMPTY) for s in body)


def _is_docstring(statement: ast.AST) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(literal(value), str)


def _unread(piece: Piece) -> Iterator[str]:
    read = {
        node.id
        for statement in piece.body
        for node in walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    given = piece.node.args
    keywords = given.kwarg.arg if given.kwarg else ""
    for name in piece.arguments[1:]:
        if name in read or name.startswith("_") or name == "args":
            continue
        if name == keywords or not _is_of_a_base(piece, name):
            yield name


def _is_of_a_base(piece: Piece, name: str) -> bool:
    """Whether a base class asks for the argument: the signature is not free."""
    kinds: tuple[Any, ...] = type(piece.live).__mro__[1:]
    for kind in kinds:
        if kind is nn.Module or kind is object or "__init__" not in vars(kind):
            continue
        try:
            if name in inspect.signature(kind.__init__).parameters:
                return True
        except (TypeError, ValueError):
            return True
    return False


def _note(piece: Piece, name: str) -> Note:
    given = piece.node.args
    is_keywords = given.kwarg is not None and given.kwarg.arg == name
    if is_keywords:
        return Note(
            line=piece.node.lineno,
            title=f"**{name} swallows every other keyword",
            actual=f"a misspelt argument of {piece.name} raises no error",
            kind="tell",
        )
    kind = piece.name.rpartition(".")[0] or piece.name
    return Note(
        line=piece.node.lineno,
        title=f"{kind} never reads its argument '{name}'",
        expected="every argument has an effect, or is not there",
        actual=f"{piece.name}({', '.join(piece.arguments[1:])}): {name} is not read",
        fix=f"Use {name}, or remove it: a run that varies it compares nothing.",
        kind="warn" if _is_knob(piece, name) else "tell",
    )


def _is_knob(piece: Piece, name: str) -> bool:
    """A number that one would vary, of a module; not of a class that others extend."""
    is_module = isinstance(piece.live, nn.Module)
    is_last = type(piece.live).__name__ == piece.name.split(".")[-2]
    return is_module and is_last and has_word(name, KNOBS)
