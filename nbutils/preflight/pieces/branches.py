"""Branches that cannot run: their condition is fixed for the object at hand."""

from __future__ import annotations

import ast
import copy
import dis
import inspect
from collections.abc import Callable
from typing import Any

from nbutils.preflight.lints.syntax import MISSING

__all__ = ["pruned"]


def pruned(node: Any, resolve: Callable[[ast.AST], Any], live: Any) -> Any:
    """A copy of a function's tree without the branches that its object never takes.

    A condition is fixed where it is a name of the closure, or an attribute that
    nothing but the constructor sets, and holds True, False or None.

    Args:
        node: The definition.
        resolve: The object that a name stands for, or ``MISSING``.
        live: Whose method it is; none for a function.
    """
    copied = copy.deepcopy(node)
    for part in ast.walk(copied):
        vars(part).pop("_children", None)  # what a reader kept of the original
    return _Pruner(resolve, live).visit(copied)


class _Pruner(ast.NodeTransformer):
    def __init__(self, resolve: Callable[[ast.AST], Any], live: Any) -> None:
        self._resolve, self._live = resolve, live

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        fixed = self._fixed(node.test)
        if fixed is None:
            return node
        return (node.body if fixed else node.orelse) or ast.copy_location(
            ast.Pass(), node
        )

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        self.generic_visit(node)
        fixed = self._fixed(node.test)
        if fixed is None:
            return node
        return node.body if fixed else node.orelse

    def _fixed(self, test: ast.AST) -> bool | None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self._fixed(test.operand)
            return None if inner is None else not inner
        if not isinstance(test, (ast.Name, ast.Attribute)):
            return None
        value = self._resolve(test)
        if value is MISSING or not isinstance(value, (bool, type(None))):
            return None
        if isinstance(test, ast.Attribute) and self._changes(test.attr):
            return None
        return bool(value)

    def _changes(self, name: str) -> bool:
        """Whether a method other than the constructor sets the attribute."""
        if name == "training" or self._live is None:
            return True
        return any(
            inspect.isfunction(function)
            and function.__name__ != "__init__"
            and _stores(function, name)
            for kind in type(self._live).__mro__
            for function in vars(kind).values()
        )


def _stores(function: Any, name: str) -> bool:
    return name in function.__code__.co_names and any(
        instruction.opname == "STORE_ATTR" and instruction.argval == name
        for instruction in dis.get_instructions(function)
    )
