"""S5: installs that replace the torch or numpy which the platform brought."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    dotted,
    walk,
)

__all__ = ["RULE"]

_PIP = re.compile(r"\b(?:pip3?|uv\s+pip|conda|mamba)\s+install\b(.*)", re.DOTALL)
_PRELOADED = re.compile(
    r"(?<![\w./=-])(torch|torchvision|torchaudio|numpy)(?:\[[\w,]*\])?"
    r"\s*(==|<=|<|~=|!=|=(?!=))?(?=[\s'\"\d;&|]|$)"
)
_FORCED = re.compile(r"(?<!\S)(?:-U|--upgrade|--force-reinstall|--pre|-I)(?!\S)")
_OWN_INDEX = re.compile(r"--(?:extra-)?index-url|--find-links|(?<!\S)-[fi](?=\s)")
RUNNERS = {"os.system", "subprocess.run", "subprocess.check_call", "subprocess.call"}
RUNNERS |= {"subprocess.check_output", "subprocess.Popen"}


def _run(source: Source) -> Iterator[Hit]:
    if not source.is_notebook:
        return
    loaded: set[str] = set()
    for cell in source.cells:
        commands = [(cell.first_line + at - 1, text) for at, text in cell.magics]
        commands += list(_called(cell.tree))
        for line, text in commands:
            for name, how in _replaced(text):
                yield _hit(line, name, how, is_loaded=name in loaded)
        loaded |= _imported(cell.tree)


def _called(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Commands given to a shell by Python."""
    for node in walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in RUNNERS:
            texts = [n.value for n in walk(node) if isinstance(n, ast.Constant)]
            yield node.lineno, " ".join(str(text) for text in texts)


def _replaced(command: str) -> Iterator[tuple[str, str]]:
    """``(package, how)`` of what the command would replace."""
    command = re.sub(r"\\\n", " ", command)
    found = _PIP.search(command)
    if found is None or command.lstrip("!% ").startswith("#"):
        return
    wanted = re.split(r"&&|;|\|", found[1])[0]
    how = "--upgrade" if _FORCED.search(wanted) else ""
    how = how or ("another index" if _OWN_INDEX.search(wanted) else "")
    for name, pin in _PRELOADED.findall(wanted):
        if pin or how:
            yield name, f"{pin} pins it" if pin else how


def _imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def _hit(line: int, name: str, how: str, *, is_loaded: bool) -> Hit:
    return Hit(
        line=line,
        title=f"an install would replace {name}",
        expected=f"the {name} that the platform brought, built for its drivers",
        actual=f"{how}; {name} is imported in a cell above, so the old one stays loaded"
        if is_loaded
        else how,
        fix=f"Leave {name} out, or give only a lower bound that it fulfils.",
        severity="fail" if is_loaded else "warn",
    )


RULE = Rule(
    "S5.install",
    "A replaced torch or numpy breaks what was built against it, and the kernel "
    "keeps half of the old one.",
    _run,
    ("install",),
)
