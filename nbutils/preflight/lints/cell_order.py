"""S7: names that a cell needs and no cell above it gives."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nbutils.preflight.lints.names import CellNames, cell_names, needs_of
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Cell, Source

__all__ = ["RULE"]

_OPENING = re.compile(r"%\s*(?:run|load|pylab|store|autocall|load_ext)\b")
_NAMED_IN_TEXT = re.compile(
    r"['\"](\w+)['\"]\s+(?:not\s+)?in\s+(?:globals|locals|dir|vars)"
)
MANY = 40


def _run(source: Source) -> Iterator[Hit]:
    if not source.is_notebook:
        return
    read = [(cell, cell_names(cell.tree)) for cell in source.cells]
    later = _first_bound(read)
    asked = set(_NAMED_IN_TEXT.findall(source.text))
    known: set[str] = set()
    maybe: dict[str, int] = {}
    gone: dict[str, int] = {}
    inner: dict[str, dict[str, int]] = {}
    for cell, names in read:
        if names.is_open or _opens(cell):
            return  # what it binds cannot be told; nothing below is judged
        inner |= names.inner
        needs = needs_of(names, inner)
        for name, (line, is_sure) in needs.items():
            if name not in known and name not in asked:
                yield _unknown(name, line, cell, later, gone, is_sure=is_sure)
                known.add(name)  # told once
            elif is_sure and maybe.get(name, cell.number) != cell.number:
                yield _only_maybe(name, line, maybe.pop(name))
        known = (known | names.bound.keys()) - names.deleted
        _note(cell, names, known, maybe, gone)


def _note(
    cell: Cell,
    names: CellNames,
    known: set[str],
    maybe: dict[str, int],
    gone: dict[str, int],
) -> None:
    """What the cells below have to know about this one."""
    for name in names.bound:
        is_new = name in names.maybe and name not in maybe
        if is_new and name not in gone and cell.number:
            maybe[name] = cell.number
        else:
            maybe.pop(name, None)
            gone[name] = 0
    gone.update(dict.fromkeys(names.deleted, cell.number))


def _first_bound(read: list[tuple[Cell, CellNames]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for cell, names in read:
        for name in names.bound:
            found.setdefault(name, []).append(cell.number)
    return found


def _opens(cell: Cell) -> bool:
    if cell.problem:
        return True
    return any(_OPENING.match(text) for _, text in cell.magics)


def _unknown(
    name: str,
    line: int,
    cell: Cell,
    bound: dict[str, list[int]],
    gone: dict[str, int],
    *,
    is_sure: bool,
) -> Hit:
    below = [number for number in bound.get(name, []) if number > cell.number]
    if gone.get(name):
        actual = f"cell {gone[name]} deletes it"
        fix = f"Remove the del, or make {name} again before this cell."
    elif below:
        actual = f"cell {below[0]}, below, is the first to define it"
        fix = f"Move this cell below cell {below[0]}, or the definition above."
    else:
        actual = "no cell defines it"
        fix = f"Define {name} in a cell above, or correct the name."
    return Hit(
        line=line,
        title=f"{name} is used before any cell above defines it",
        expected="each name is defined in this cell or above",
        actual=actual + ("" if is_sure else "; a branch or a try surrounds the use"),
        fix=fix,
        severity="fail" if is_sure else "warn",
    )


def _only_maybe(name: str, line: int, number: int) -> Hit:
    return Hit(
        line=line,
        title=f"{name} is defined on one path only",
        expected="every path defines what the cells below use",
        actual=f"cell {number} defines it under an if, without an else",
        fix=f"Define {name} in the other branch too, or before the if.",
        severity="warn",
    )


RULE = Rule(
    "S7.order",
    "Run All on a fresh kernel stops there, although the saved outputs look fine.",
    _run,
)
