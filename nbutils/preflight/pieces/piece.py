"""A function of the user's own: its syntax tree, and what the names in it stand for."""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from nbutils.preflight.lints.syntax import (
    FUNCTIONS,
    MISSING,
    bound_names,
    dotted,
    inside,
)
from nbutils.preflight.pieces.branches import pruned
from nbutils.preflight.pieces.files import File

__all__ = ["Note", "Piece", "Rule", "peek"]

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a rule found at one line.

    Args:
        line: In the file.
        title: What is wrong there, in the field's words.
        expected: How healthy code does it.
        actual: What stands there; never the text of a secret.
        fix: What to write instead.
        kind: ``tell``: it may well be meant, so it is a detail and no warning.
    """

    line: int
    title: str
    expected: str = ""
    actual: str = ""
    fix: str = ""
    kind: Literal["warn", "tell"] = "warn"


@dataclass(frozen=True, eq=False, repr=False)
class Piece:
    """One function or method, and who calls it.

    Args:
        role: ``model``, ``forward``, ``loss``, ``metric``, ``data``, ``collate``,
            ``count``, ``optimizer``, ``schedule``, or ``init`` for a constructor.
        name: Such as ``Net.forward``.
        node: Its definition.
        file: Where that stands.
        function: The object itself.
        live: Whose method it is; none for a function.
        is_root: Whether the engine calls it, rather than other code of the user's.
    """

    role: str
    name: str
    node: Function
    file: File
    function: Any
    live: Any = None
    is_root: bool = False
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> list[ast.AST]:
        """Its statements; of a lambda the expression."""
        inner = self._running.body
        return list(inner) if isinstance(inner, list) else [inner]

    @cached_property
    def _running(self) -> Any:
        """The definition without the branches that this object never takes."""
        return pruned(self.node, self._fixed, self.live)

    def _fixed(self, node: ast.AST) -> Any:
        """What a name of the closure, or an attribute of the object, stands for."""
        first, *rest = dotted(node).split(".")
        if self.live is not None and rest and self.arguments[:1] == [first]:
            value = self.live
        elif not rest and first in self.function.__code__.co_freevars:
            value = self.scope.get(first, MISSING)
        else:
            return MISSING
        for part in rest:
            value = peek(value, part)
        return value

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Everything in it, in the order of the text, but no nested definition."""
        return list(inside(self.body))

    @cached_property
    def arguments(self) -> list[str]:
        """Names of its arguments, ``self`` included."""
        given = self.node.args
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        extra = [a for a in (given.vararg, given.kwarg) if a is not None]
        return [argument.arg for argument in [*named, *extra]]

    @cached_property
    def stored(self) -> dict[str, list[ast.AST]]:
        """Statements that bind each local name, in order."""
        found: dict[str, list[ast.AST]] = {}
        for node in self.nodes:
            for name in _bound(node):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def scope(self) -> Mapping[str, Any]:
        """What the names around it stand for: globals, then the closure."""
        names = self.function.__code__.co_freevars
        closed: dict[str, Any] = {}
        for name, cell in zip(names, self.function.__closure__ or (), strict=False):
            try:
                closed[name] = cell.cell_contents
            except ValueError:  # bound later
                continue
        return {**self.function.__globals__, **closed}

    def resolve(self, node: ast.AST | None) -> Any:
        """The object that a name or a chain of names stands for, or ``MISSING``."""
        first, *rest = dotted(node).split(".")
        if not first:
            return MISSING
        if self.live is not None and self.arguments[:1] == [first]:
            value = self.live
        elif first in self.arguments or first in self.stored:
            return MISSING
        else:
            value = self.scope.get(first, getattr(builtins, first, MISSING))
        for part in rest:
            value = peek(value, part)
        return value

    def value(self, node: ast.AST | None) -> ast.AST | None:
        """The expression behind a local name that is bound once; else the node."""
        if not isinstance(node, ast.Name) or node.id in self.arguments:
            return node
        bound = self.stored.get(node.id, [])
        is_plain = len(bound) == 1 and isinstance(bound[0], (ast.Assign, ast.AnnAssign))
        if not is_plain:
            return node
        statement: Any = bound[0]
        target = statement.targets[0] if hasattr(statement, "targets") else None
        is_name = target is None or isinstance(target, ast.Name)
        return statement.value if is_name and statement.value is not None else node

    def loads(self, name: str) -> list[ast.Name]:
        """The places that read a local name."""
        return [
            node
            for node in ast.walk(self.node)
            if isinstance(node, ast.Name)
            and node.id == name
            and isinstance(node.ctx, ast.Load)
        ]

    def calls(self) -> Iterator[ast.Call]:
        """The calls in it."""
        return (node for node in self.nodes if isinstance(node, ast.Call))

    def place(self, line: int) -> str:
        """``train.py:12 in Net.forward``."""
        return f"{Path(self.file.path).name}:{line} in {self.name}"


def peek(value: Any, name: str) -> Any:
    """An attribute that can be read without running code, or ``MISSING``."""
    if value is MISSING:
        return MISSING
    if isinstance(value, nn.Module):
        for home in ("_modules", "_parameters", "_buffers"):
            inner = value.__dict__.get(home, {})
            if name in inner:
                return inner[name]
    own = getattr(value, "__dict__", {})
    if name in own:
        found = own[name]
        return (
            found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
        )
    if isinstance(value, types.ModuleType):
        return MISSING
    kind = value if isinstance(value, type) else type(value)
    found = inspect.getattr_static(kind, name, MISSING)
    if isinstance(found, (staticmethod, classmethod)):
        return found.__func__
    is_plain = not isinstance(found, property) and not hasattr(found, "__get__")
    is_function = isinstance(found, (types.FunctionType, types.BuiltinFunctionType))
    is_slot = isinstance(
        found, (types.MethodDescriptorType, types.WrapperDescriptorType)
    )
    return found if is_plain or is_function or is_slot else MISSING


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds."""
    targets: list[Any] = list(getattr(node, "targets", []))
    if isinstance(node, (ast.With, ast.AsyncWith)):
        targets += [item.optional_vars for item in node.items]
    elif hasattr(node, "target"):
        targets.append(node.target)  # type: ignore[attr-defined]
    for target in targets:
        if isinstance(target, ast.AST):
            yield from bound_names(target)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (a.asname or a.name.split(".")[0] for a in node.names)
    elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and node.name:
        yield node.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One question to a piece.

    Args:
        id: As in the lints, so that ``# nbutils: allow`` holds here too.
        run: Yields what it finds.
        roles: Pieces that it is asked of.
    """

    id: str
    run: Callable[[Piece], Iterator[Note]]
    roles: tuple[str, ...]
