"""S5: code that is no Python."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source

__all__ = ["RULE"]


def _run(source: Source) -> Iterator[Hit]:
    for cell in source.cells:
        if cell.problem is not None:
            line, message = cell.problem
            version = platform.python_version()
            yield Hit(
                line=cell.first_line + line - 1,
                title="this is no Python",
                expected="code that can be parsed",
                actual=f"{message}, says Python {version}",
                fix="Correct the syntax; the rules about it are not judged before.",
            )


RULE = Rule("S5.syntax", "The cell or file fails before its first line runs.", _run)
