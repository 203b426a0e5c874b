"""A rule reads a source and tells what it found; one small file each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from nbutils.preflight.lints.source import Source

__all__ = ["Hit", "Rule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One place where a rule is broken.

    Args:
        line: In the joined text of the source.
        title: What is wrong there.
        expected: How healthy code does it.
        actual: What stands there; never the text of a secret.
        fix: What to write instead.
        severity: ``fail`` where it is certain.
    """

    line: int
    title: str
    expected: str
    actual: str
    fix: str
    severity: Literal["warn", "fail"] = "fail"


@dataclass(frozen=True, slots=True)
class Rule:
    """An entry of the catalogue.

    Args:
        id: Stable; S4, S5 or S7 and the rule's own name.
        why: What it protects from.
        run: Yields what it finds.
        hints: Texts; a file that holds none of them cannot break the rule.
    """

    id: str
    why: str
    run: Callable[[Source], Iterator[Hit]]
    hints: tuple[str, ...] = ()
