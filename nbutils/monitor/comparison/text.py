"""A comparison for a terminal."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from nbutils.monitor.comparison.cells import (
    Table,
    differences_table,
    tables_of,
    title_of,
)
from nbutils.monitor.texttable import text_table

if TYPE_CHECKING:
    from nbutils.monitor.comparison.result import Comparison

__all__ = ["comparison_text"]

_WIDTH = 96
_SIGNS = {"fail": "✗", "warn": "!", "info": "i"}


def comparison_text(found: Comparison) -> str:
    """Notes, verdicts and tables, the gravest first."""
    blocks = [title_of(found)]
    blocks += ["\n".join(_wrapped(_SIGNS[s], text) for s, text in found.notes)]
    first, *rest = tables_of(found)
    blocks.append(_table(first))
    blocks += _differences(found)
    blocks += [_table(table) for table in rest]
    return "\n\n".join(block for block in blocks if block)


def _differences(found: Comparison) -> list[str]:
    """Sentences where they are few, else a table."""
    if not found.judgements:
        return []
    table = differences_table(found)
    if table is not None:
        return [_table(table)]
    told = [_wrapped("•", f"{each.verdict}: {each.text}") for each in found.judgements]
    return ["\n".join(["Differences", *told])]


def _table(table: Table) -> str:
    lines = [table.title]
    if table.rows:
        lines.append(text_table(table.names, table.rows, right=table.right))
    lines += [fill(table.note, _WIDTH)] if table.note else []
    return "\n".join(lines)


def _wrapped(sign: str, text: str) -> str:
    return fill(text, _WIDTH, initial_indent=f"{sign} ", subsequent_indent="  ")
