"""Finds the blocks of a model whose activations are recomputed, by name or structure.

A block is a part that is worth the trouble: it has parts of its own, so that its
inside can be dropped and its input kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from nbutils.errors import ConfigError
from nbutils.train.groups import near_names

__all__ = ["NUM_REPEATS", "blocks_by_name", "repeated_blocks"]

NUM_REPEATS = 3
LISTS = (nn.ModuleList, nn.ModuleDict)


def blocks_by_name(
    model: nn.Module, patterns: Sequence[str]
) -> list[tuple[str, nn.Module]]:
    """The outermost modules that the patterns match; of a list its members.

    Raises:
        ConfigError: A pattern matches no module that is called.
    """
    named = {name: module for name, module in model.named_modules() if name}
    problems: list[str] = []
    matched: list[str] = []
    for pattern in patterns:
        found = [name for name in named if fnmatchcase(name, pattern)]
        members = [inner for name in found for inner in _called(name, named[name])]
        if not members:
            problems.append(
                f"checkpoint_blocks has {pattern!r}, which matches no module of "
                f"{type(model).__name__}; a pattern such as 'layers.*' is expected"
                f"{near_names(pattern, named)}"
            )
        matched += members
    if problems:
        raise ConfigError(problems)
    return [(name, named[name]) for name in _outermost(matched)]


def repeated_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Members of the outermost lists in which one class repeats three times or more.

    Layers without parts of their own are left alone: to recompute them frees
    nothing that is not kept as the next one's input.
    """
    found: list[tuple[str, nn.Module]] = []
    taken: list[str] = []
    for name, module in model.named_modules():
        if any(_is_inside(name, outer) for outer in taken):
            continue
        members = _repeated(module)
        if members:
            taken.append(name)
            prefix = f"{name}." if name else ""
            found += [(prefix + inner, member) for inner, member in members]
            if not name:
                break  # everything else is inside
    return found


def _repeated(module: nn.Module) -> list[tuple[str, nn.Module]]:
    if not isinstance(module, (nn.Sequential, *LISTS)):
        return []
    children = [(n, child) for n, child in module.named_children() if _has_parts(child)]
    counts = Counter(type(child) for _, child in children)
    return [
        (name, child)
        for name, child in children
        if counts[type(child)] >= NUM_REPEATS and not isinstance(child, LISTS)
    ]


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _called(name: str, module: nn.Module) -> list[str]:
    """``name``, or the names of its members where a list is never called itself."""
    if not isinstance(module, LISTS):
        return [name]
    return [
        inner
        for child_name, child in module.named_children()
        for inner in _called(f"{name}.{child_name}", child)
    ]


def _outermost(names: Iterable[str]) -> list[str]:
    unique = list(dict.fromkeys(names))
    return [
        name
        for name in unique
        if not any(_is_inside(name, outer) for outer in unique if outer != name)
    ]


def _is_inside(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")
