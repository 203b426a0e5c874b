"""S4: a number in the code beside a config that says another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    MISSING,
    dotted,
    last,
    literal,
    walk,
    words,
)

__all__ = ["RULE"]

CONFIGS = {"config", "cfg", "hparams", "conf", "hp", "configuration", "hyperparameters"}
COUNTS = {"num", "n", "nb", "number", "of", "count"}
SIZES = {"image_size", "input_size", "img_size", "crop_size", "resolution"}
# Of a single layer: the same word means another thing in each.
LAYER_WORDS = {"kernel_size", "stride", "padding", "dilation", "groups", "dim", "eps"}
CROPS = {"CenterCrop", "RandomResizedCrop", "RandomCrop", "Resize"}


def _run(source: Source) -> Iterator[Hit]:
    declared = _declared(source.tree)
    if not declared:
        return
    read = _read(source.tree)
    homes = _homes(source.tree)
    for node in walk(source.tree):
        if isinstance(node, ast.Call) and id(node) not in homes:
            yield from _keywords(node, declared, read)
            if last(node) == "Compose":
                yield from _sizes(node, declared)


def _declared(tree: ast.Module) -> dict[str, Any]:
    """Numbers that a config of this file gives, by key; once and alike."""
    found: dict[str, list[Any]] = {}
    for node in walk(tree):
        for key, value in _entries(node):
            number = literal(value)
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                found.setdefault(key, []).append(number)
    return {key: values[0] for key, values in found.items() if len(values) == 1}


def _entries(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Keys and values of ``config = {...}``, ``Config(...)`` or ``class Config``."""
    if isinstance(node, ast.Assign) and _is_config(dotted(node.targets[0])):
        if isinstance(node.value, ast.Dict):
            keys = map(literal, node.value.keys)
            yield from zip(map(str, keys), node.value.values, strict=True)
        elif isinstance(node.value, ast.Call):
            yield from ((k.arg or "", k.value) for k in node.value.keywords)
    elif isinstance(node, ast.ClassDef) and words(node.name)[-1:] == ["config"]:
        fields = (s for s in node.body if isinstance(s, ast.AnnAssign))
        yield from ((dotted(field.target), field.value) for field in fields)


def _is_config(name: str) -> bool:
    return bool(CONFIGS & set(words(name.rpartition(".")[2])[-1:]))


def _homes(tree: ast.Module) -> set[int]:
    """Calls that make a config: their keywords are its values."""
    return {
        id(inner)
        for node in walk(tree)
        if isinstance(node, ast.Assign) and _is_config(dotted(node.targets[0]))
        for inner in walk(node)
    }


def _read(tree: ast.Module) -> set[str]:
    """Keys that something reads from a config."""
    found: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(literal(node.slice), str):
            found.add(literal(node.slice))
        elif isinstance(node, ast.Call) and last(node) == "get" and node.args:
            found.add(str(literal(node.args[0])))
    return found


def _keywords(
    call: ast.Call, declared: dict[str, Any], read: set[str]
) -> Iterator[Hit]:
    """A literal in a call that takes other values from the config."""
    if not any(_from_config(part) for part in [*call.args, *call.keywords]):
        return
    for keyword in call.keywords:
        value = literal(keyword.value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        key = _key(keyword.arg or "", declared, read) if is_number else ""
        if key and declared[key] != value:
            yield _hit(keyword.value, f"{keyword.arg}={value!r}", key, declared[key])


def _from_config(node: ast.expr | ast.keyword) -> bool:
    value = node.value if isinstance(node, ast.keyword) else node
    parts = value.value if isinstance(value, (ast.Attribute, ast.Subscript)) else None
    return _is_config(dotted(parts))


def _key(name: str, declared: dict[str, Any], read: set[str]) -> str:
    """The key of that name; or a key that nothing reads, alike but for a word."""
    if name in declared or name in LAYER_WORDS:
        return "" if name in LAYER_WORDS else name
    core = set(words(name)) - COUNTS
    alike = [key for key in declared if core and core <= set(words(key))]
    unread = [key for key in alike if key not in read]
    return unread[0] if len(alike) == 1 and len(unread) == 1 else ""


def _sizes(call: ast.Call, declared: dict[str, Any]) -> Iterator[Hit]:
    """The last resize or crop of a transform against the size of the config."""
    wanted = [key for key in declared if key in SIZES]
    crops = [n for n in walk(call) if isinstance(n, ast.Call) and last(n) in CROPS]
    if len(wanted) != 1 or not crops:
        return
    crops.sort(key=lambda node: (node.lineno, node.col_offset))
    given = crops[-1].args[0] if crops[-1].args else None
    value = literal(given)
    size = value[0] if isinstance(value, (tuple, list)) and value else value
    if value is not MISSING and isinstance(size, int) and size != declared[wanted[0]]:
        shown = ast.unparse(crops[-1])[:60]
        yield _hit(crops[-1], shown, wanted[0], declared[wanted[0]])


def _hit(node: ast.expr, shown: str, key: str, value: Any) -> Hit:
    return Hit(
        line=node.lineno,
        title=f"{shown} shadows the config: {key} is {value!r}",
        expected=f"the value of the config, {value!r}",
        actual=shown,
        fix=f"Read {key} from the config here.",
        severity="warn",
    )


RULE = Rule(
    "S4.literal",
    "The config is changed, saved and compared, and the code does something else.",
    _run,
    ("onfig", "cfg", "hparams", "CONFIG"),
)
