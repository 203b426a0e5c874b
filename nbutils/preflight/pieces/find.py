"""The user's own code that a run will call, found from the objects of a task."""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from nbutils.preflight.blame import is_own
from nbutils.preflight.lints.syntax import MISSING, dotted, walk
from nbutils.preflight.pieces.files import Files
from nbutils.preflight.pieces.piece import Piece, peek

__all__ = ["datasets", "find_pieces", "own_classes"]

ENTRIES = {
    "model": ("forward",),
    "loss": ("forward", "__call__"),
    "metric": ("forward", "__call__", "update", "compute"),
    "data": ("__getitem__", "__getitems__", "__iter__", "__next__", "__len__"),
    "sampler": ("__iter__", "__len__"),
}
MAX_PIECES = 400
SHALLOW = ("model", "loss", "forward", "metric", "data", "collate")


def find_pieces(task: Any) -> list[Piece]:
    """Every function of the user's own that the objects of a task lead to.

    Code of installed packages is not followed, and a function without a source, such
    as one typed at a prompt, is left out.
    """
    finder = _Finder()
    for module in task.model.modules():
        finder.add_object("model", module)
    finder.add("forward", task.forward_function)
    finder.add("loss", task.loss)
    metrics = task.metrics if isinstance(task.metrics, Mapping) else {"": task.metrics}
    for metric in metrics.values():
        finder.add("metric", metric)
    finder.add("collate", task.collate)
    finder.add("count", task.count_targets)
    finder.add("optimizer", task.make_optimizer)
    finder.add("schedule", task.make_schedule)
    for split in ("train", "val", "test"):
        for data in datasets(getattr(task, f"{split}_data")):
            if isinstance(data, DataLoader):
                finder.add("collate", data.collate_fn)
                finder.add_object("sampler", data.sampler)
                finder.add_object("sampler", data.batch_sampler)
            else:
                finder.add_object("data", data)
                for inner in vars(data).values() if hasattr(data, "__dict__") else ():
                    if callable(inner) and not isinstance(inner, type):
                        finder.add("data", inner)
    return finder.pieces


def datasets(data: Any) -> Iterator[Any]:
    """A source of data and what it wraps, outermost first."""
    stack, seen = [data], set()
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen or len(seen) > 50:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, (DataLoader, Subset)):
            stack.append(current.dataset)
        elif isinstance(current, ConcatDataset):
            stack += current.datasets
        elif isinstance(current, Dataset):
            stack += [v for v in vars(current).values() if isinstance(v, Dataset)]


def own_classes(value: Any) -> list[type]:
    """Classes of an object that the user wrote, most derived first."""
    return [kind for kind in type(value).__mro__ if any(_own_functions(kind))]


def _own_functions(kind: type) -> Iterator[tuple[str, types.FunctionType]]:
    """Functions in the body of a class that stand in a file of the user's."""
    for name, member in vars(kind).items():
        function = _plain(member)
        if function is not None and is_own(function.__code__.co_filename):
            yield name, function


def _plain(value: Any) -> types.FunctionType | None:
    """The function behind wrappers, partials and bound methods."""
    for _ in range(20):
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, types.MethodType):
            value = value.__func__
        elif isinstance(value, types.FunctionType):
            inner = inspect.getattr_static(value, "__wrapped__", None)
            if inner is None:
                return value
            value = inner
        else:
            return None
    return None


class _Finder:
    """Follows the names in functions, each function once per role."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._files = Files()
        self._seen: set[tuple[str, types.CodeType]] = set()

    def add(self, role: str, value: Any) -> None:
        """A function, a partial of one, or an object with a method that is called."""
        while isinstance(value, functools.partial):
            value = value.func
        live = value.__self__ if isinstance(value, types.MethodType) else None
        function = _plain(value)
        if function is not None:
            self._add_function(role, function, live, is_root=True)
        elif value is not None:
            self.add_object(role, value)

    def add_object(self, role: str, value: Any) -> None:
        """The methods of an object that a run enters, and its constructor."""
        if value is None or isinstance(value, type) or not own_classes(value):
            return
        entries = ENTRIES.get(role, ENTRIES["loss"])
        for name in entries:
            function = _plain(peek(value, name))
            if function is not None:
                self._add_function(role, function, value, is_root=True)
        for kind in own_classes(value):
            function = _plain(vars(kind).get("__init__"))
            if function is not None:
                self._add_function("init", function, value)

    def _add_function(
        self,
        role: str,
        function: types.FunctionType,
        live: Any = None,
        *,
        is_root: bool = False,
    ) -> None:
        code = function.__code__
        key = (role, code)
        is_known = key in self._seen or len(self.pieces) >= MAX_PIECES
        if is_known or not is_own(code.co_filename):
            return
        self._seen.add(key)
        found = self._files.node(code)
        if found is None:
            return
        file, node = found
        name = function.__qualname__.rpartition("<locals>.")[2]
        piece = Piece(role, name, node, file, function, live, is_root)
        self.pieces.append(piece)
        if role in SHALLOW:
            self._follow(piece)

    def _follow(self, piece: Piece) -> None:
        """Own functions and objects that the piece names."""
        for node in walk(piece.node):
            if isinstance(node, ast.Call) and dotted(node.func) == "":
                self._follow_super(piece, node)
            if not isinstance(node, (ast.Name, ast.Attribute)):
                continue
            value = piece.resolve(node)
            if value is MISSING or isinstance(value, (type, types.ModuleType)):
                continue
            function = _plain(value)
            if function is not None:
                is_method = dotted(node).startswith("self.") and piece.live is not None
                live = getattr(value, "__self__", piece.live if is_method else None)
                self._add_function(piece.role, function, live)
            elif isinstance(value, nn.Module):
                self.add_object(piece.role, value)

    def _follow_super(self, piece: Piece, call: ast.Call) -> None:
        """``super().forward(x)``: the method of the next class that has one."""
        function = call.func
        is_super = (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Call)
            and dotted(function.value.func) == "super"
        )
        if not is_super or piece.live is None:
            return
        name = function.attr  # type: ignore[union-attr]
        defined = [
            found
            for kind in type(piece.live).__mro__
            if (found := _plain(vars(kind).get(name))) is not None
        ]
        if piece.function in defined[:-1]:
            following = defined[defined.index(piece.function) + 1]
            self._add_function(piece.role, following, piece.live)
