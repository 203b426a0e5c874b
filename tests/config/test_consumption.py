"""No setting that nothing reads: a knob without effect is a lie."""

from __future__ import annotations

import ast
from pathlib import Path

import nbutils.config
from nbutils.config.leaves import LEAVES

PACKAGE = Path(nbutils.config.__file__).parents[1]


def names_read(path: Path) -> set[str]:
    """Attributes read, and texts handed to ``getattr`` or used as keys."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        is_getattr = isinstance(node, ast.Call) and (
            getattr(node.func, "id", "") == "getattr"
        )
        if is_getattr and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            found.add(str(node.args[1].value))
    return found


def test_names_read_finds_attributes_and_getattr(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("config.lr\ngetattr(x, 'epochs')\nconfig.seed = 1\n'mode'\n")
    assert names_read(source) == {"lr", "epochs"}


def test_every_leaf_is_read_outside_config() -> None:
    read: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        if (PACKAGE / "config") not in path.parents:
            read |= names_read(path)
    assert sorted(set(LEAVES) - read) == []
