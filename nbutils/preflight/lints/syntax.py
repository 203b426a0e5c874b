"""Small questions about syntax trees; nothing is executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = [
    "FUNCTIONS",
    "MISSING",
    "Scope",
    "argument",
    "bound_names",
    "calls",
    "dotted",
    "has_word",
    "inside",
    "last",
    "literal",
    "own",
    "root",
    "scopes",
    "walk",
    "words",
]

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef
MISSING = object()
"""No literal stands there."""

_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def dotted(node: ast.AST | None) -> str:
    """``a.b.c`` of a chain of names; empty for anything else.

    Example:
        >>> dotted(ast.parse("self.model.eval", mode="eval").body)
        'self.model.eval'
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def last(call: ast.AST | None) -> str:
    """The last name of what a call calls: ``step`` of ``self.optimizers[0].step()``."""
    function = call.func if isinstance(call, ast.Call) else call
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def root(node: ast.AST | None) -> str:
    """The name a value starts from: ``loss`` of ``(loss / n).sum()``."""
    while node is not None:
        if isinstance(node, (ast.Name, ast.Attribute)) and (name := dotted(node)):
            return name
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
        elif isinstance(node, ast.Call):
            is_method = isinstance(node.func, ast.Attribute)
            held = node.func.value if is_method else None  # type: ignore[attr-defined]
            node = held if isinstance(held, _VALUES) else None
        elif isinstance(node, ast.BinOp):
            is_name = isinstance(node.left, _VALUES)
            node = node.left if is_name else node.right
        else:
            return ""
    return ""


_VALUES = (ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.BinOp)


def words(name: str) -> list[str]:
    """Lower-case words of a name.

    Example:
        >>> words("self.optimizerD"), words("train_loader"), words("BATCH_SIZE")
        (['self', 'optimizer', 'd'], ['train', 'loader'], ['batch', 'size'])
    """
    return [word.lower() for word in _WORD.findall(name)]


def has_word(name: str, known: Iterable[str]) -> bool:
    """Whether one of ``known`` is a word of the name."""
    return not set(known).isdisjoint(words(name))


def literal(node: ast.AST | None) -> Any:
    """The value of a literal expression, or ``MISSING``."""
    if node is None:
        return MISSING
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return MISSING


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """The argument given by keyword, or at a position."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is not None and position < len(call.args):
        return call.args[position]
    return None


def own(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a node in the order of the text, but no nested definition."""
    stack = [*_children(node)[::-1]]
    while stack:
        child = stack.pop()
        yield child
        if not isinstance(child, _NESTED):
            stack += _children(child)[::-1]


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and everything below it, in the order of the text."""
    stack = [node]
    while stack:
        inner = stack.pop()
        yield inner
        stack += _children(inner)[::-1]


def _children(node: ast.AST) -> list[ast.AST]:
    """The nodes directly below; found once, for many rules ask again."""
    kept = node.__dict__.get("_children")
    if kept is None:
        contexts = (ast.expr_context, ast.operator)
        found = ast.iter_child_nodes(node)
        kept = [child for child in found if not isinstance(child, contexts)]
        node.__dict__["_children"] = kept
    return kept


def inside(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes and everything below them, but no nested definition."""
    for node in nodes:
        yield node
        if not isinstance(node, _NESTED):
            yield from own(node)


def calls(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The calls at and below the nodes."""
    return (node for node in inside(nodes) if isinstance(node, ast.Call))


def scopes(tree: ast.Module) -> Iterator[Scope]:
    """The module and every function in it."""
    yield tree
    yield from (node for node in walk(tree) if isinstance(node, FUNCTIONS))


def bound_names(target: ast.AST) -> Iterator[str]:
    """Plain names that an assignment target binds."""
    for node in walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
