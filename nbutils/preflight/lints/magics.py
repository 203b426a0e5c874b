"""A cell without its IPython magics: plain Python on the same lines."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass

__all__ = ["Plain", "plain"]

# Cell magics whose body is Python; the body of any other is not.
PYTHON_CELLS = {"time", "timeit", "capture", "prun", "python", "python3", "pypy"}

_ASSIGNED = re.compile(r"^(\s*[A-Za-z_][\w.,\s\[\]'\"]*=\s*)([!%])(.*)$")
_HELP = re.compile(r"^\s*\?{1,2}[\w.%*]+\s*$|^\s*%{0,2}[\w.*]+\?{1,2}\s*$")


@dataclass(frozen=True, slots=True)
class Plain:
    """Python text, and the magic lines that were taken out of it.

    Args:
        text: As many lines as the cell had.
        magics: ``(line, text)`` of each magic, the first line being 1.
    """

    text: str
    magics: tuple[tuple[int, str], ...] = ()


def plain(source: str) -> Plain:
    r"""Replace magics by ``pass``; text that is Python already stays as it is.

    Example:
        >>> plain("!ls\nfiles = !ls\nx = 1").text
        'pass\nfiles = None\nx = 1'
    """
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return _without_magics(source)
    return Plain(source)


def _without_magics(source: str) -> Plain:
    lines = source.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    magics: list[tuple[int, str]] = []
    if lines[first].lstrip().startswith("%%"):
        magics.append((first + 1, lines[first].strip()))
        name = lines[first].strip().removeprefix("%%").split(" ")[0]
        if name not in PYTHON_CELLS:
            return Plain("\n" * (len(lines) - 1), (*magics, _body(first, lines)))
        lines[first] = ""
    kept: list[str] = []
    is_continued = False
    for number, line in enumerate(lines, 1):
        if is_continued:
            is_continued = line.rstrip().endswith("\\")
            kept.append("")
            continue
        changed = _replaced(line)
        if changed is None or _is_open("\n".join(kept)):
            kept.append(line)
            continue
        magics.append((number, line.strip()))
        is_continued = line.rstrip().endswith("\\")
        kept.append(changed)
    return Plain("\n".join(kept), tuple(magics))


def _body(first: int, lines: list[str]) -> tuple[int, str]:
    """The text under a cell magic that is no Python."""
    return first + 2, "\n".join(lines[first + 1 :])


def _replaced(line: str) -> str | None:
    """What stands for a line that is a magic; none for any other line."""
    indent = line[: len(line) - len(line.lstrip())]
    if line.lstrip().startswith(("%", "!")) or _HELP.match(line):
        return f"{indent}pass"
    if found := _ASSIGNED.match(line):
        return f"{found[1]}None"
    return None


def _is_open(text: str) -> bool:
    """Whether a string or a bracket is still open at the end of ``text``."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(text + "\n").readline):
            pass
    except tokenize.TokenError as error:
        return "multi-line" in str(error.args[0]) or "EOF" in str(error.args[0])
    except SyntaxError:  # an indentation that does not fit; no open bracket
        return False
    return False
