"""Whether this kernel runs the nbutils that lies on disk."""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

__all__ = ["LOADED_S", "edited_modules", "version_on_disk"]

LOADED_S = time.time()
"""When this process first used nbutils; the parts that it uses are loaded later."""

PACKAGE = "nbutils"


def version_on_disk(package: str = PACKAGE) -> str | None:
    """``__version__`` as the package's file says it now; none where it says none."""
    path = getattr(sys.modules.get(package), "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    text = Path(path).read_text(encoding="utf-8")
    found = re.search(r"^__version__ = ['\"](.+?)['\"]$", text, re.MULTILINE)
    return found[1] if found else None


def edited_modules(
    modules: Mapping[str, Any],
    package: str = PACKAGE,
    since_s: float | None = None,
) -> list[str]:
    """Loaded modules of a package whose file says something else by now.

    A file that is younger than the process is compiled and compared with what is
    loaded, so that one edited before it was loaded, or reloaded since, does not count.

    Args:
        modules: Loaded modules by name, as in ``sys.modules``.
        package: Which ones.
        since_s: Only files changed after this time; by default since the process
            first used nbutils.
    """
    since_s = LOADED_S if since_s is None else since_s
    found = [
        name
        for name, module in list(modules.items())
        if (name == package or name.startswith(f"{package}."))
        and _differs(module, since_s)
    ]
    return sorted(found)


def _differs(module: Any, since_s: float) -> bool:
    path = Path(getattr(module, "__file__", None) or "")
    if path.suffix != ".py" or not path.is_file() or path.stat().st_mtime <= since_s:
        return False
    source = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(source)
    except SyntaxError:  # half saved; it will differ from what is loaded in any case
        return True
    compiled = compile(source, str(path), "exec", dont_inherit=True)
    return _code_differs(compiled, module) or _constants_differ(tree, module)


def _code_differs(compiled: CodeType, holder: Any) -> bool:
    """Whether a function or method on disk is not the one that is loaded."""
    for name, code in _definitions(compiled):
        loaded = vars(holder).get(name)
        plain = getattr(loaded, "__func__", None) or getattr(loaded, "fget", loaded)
        plain = _unwrapped(plain)
        if isinstance(plain, FunctionType):
            if plain.__code__ != code:
                return True
        elif isinstance(plain, type):
            if _code_differs(code, plain):
                return True
        elif loaded is None:
            return True
    return False


def _definitions(compiled: CodeType) -> Iterator[tuple[str, CodeType]]:
    for constant in compiled.co_consts:
        if isinstance(constant, CodeType) and constant.co_name.isidentifier():
            yield constant.co_name, constant


def _unwrapped(function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _constants_differ(tree: ast.Module, module: Any) -> bool:
    """Whether a number or text that the module binds by name is another one by now.

    Lists and mappings are left out: a program may fill them.
    """
    for name, value in _literals(tree).items():
        is_fixed = isinstance(value, (int, float, str, bytes, tuple))
        if is_fixed and vars(module).get(name) != value:
            return True
    return False


def _literals(tree: ast.Module) -> dict[str, Any]:
    """Names that the module binds to literals; of several bindings the last."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # computed
                found.pop(node.targets[0].id, None)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.pop(node.target.id, None)
    return found
