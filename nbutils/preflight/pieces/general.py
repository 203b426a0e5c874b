"""Rules of the lints that fit a single function: keys in the text, dead code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from nbutils.preflight.lints import dead_code, secret_keys
from nbutils.preflight.lints.rule import Hit
from nbutils.preflight.lints.source import Cell, Source
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULES"]

EVERYWHERE = ("model", "forward", "loss", "metric", "data", "collate", "count", "init")
EVERYWHERE += ("optimizer", "schedule", "sampler")


def _source(piece: Piece) -> Source:
    """The function alone, under the line numbers of its file."""
    node = piece.node
    last = node.end_lineno or node.lineno
    text = "".join(piece.file.lines[node.lineno - 1 : last])
    body: list[ast.stmt] = [node] if isinstance(node, ast.stmt) else []
    cell = Cell(
        number=0,
        first_line=node.lineno,
        text=text,
        raw=text,
        magics=(),
        tree=ast.Module(body, []),
        problem=None,
    )
    return Source(Path(piece.file.path), (cell,))


def _dead(piece: Piece) -> Iterator[Note]:
    if not isinstance(piece.node, ast.Lambda):
        yield from map(_note, dead_code.unreached(piece.node))


def _secrets(piece: Piece) -> Iterator[Note]:
    yield from map(_note, secret_keys.RULE.run(_source(piece)))


def _note(hit: Hit) -> Note:
    return Note(
        line=hit.line,
        title=hit.title,
        expected=hit.expected,
        actual=hit.actual,
        fix=hit.fix,
    )


RULES = (
    Rule(id=dead_code.RULE.id, run=_dead, roles=("model", "forward", "loss", "metric")),
    Rule(id=secret_keys.RULE.id, run=_secrets, roles=EVERYWHERE),
)
