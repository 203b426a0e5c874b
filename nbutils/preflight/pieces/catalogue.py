"""All rules about pieces, and the reading of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nbutils.preflight.lints.lint import ALLOW
from nbutils.preflight.lints.secret_keys import redact
from nbutils.preflight.pieces import (
    compositions,
    cut_terms,
    cuts,
    devices,
    general,
    inner_steps,
    kept_graph,
    made_in_forward,
    misordered,
    modes,
    plain_state,
    random_values,
    seeds,
    shared_layers,
    swallowed,
)
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULES", "read_pieces"]

_MODULES = (
    compositions,
    cut_terms,
    cuts,
    devices,
    inner_steps,
    kept_graph,
    made_in_forward,
    misordered,
    modes,
    plain_state,
    random_values,
    seeds,
    shared_layers,
    swallowed,
)
RULES: tuple[Rule, ...] = (*(m.RULE for m in _MODULES), *general.RULES)


def read_pieces(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Note]]:
    """What the rules find, each place once; lines with ``# nbutils: allow`` are left.

    Texts that could hold a key are redacted.
    """
    emptied = kept_graph.resets(pieces)
    seen: set[tuple[str, int, str]] = set()
    for piece in pieces:
        piece.found["resets"] = emptied
        for rule in RULES:
            if piece.role not in rule.roles:
                continue
            for note in rule.run(piece):
                key = (piece.file.path, note.line, note.title)
                line = piece.file.line(note.line)
                if key in seen or rule.id in line.partition(ALLOW)[2]:
                    continue
                seen.add(key)
                yield piece, _redacted(note)


def _redacted(note: Note) -> Note:
    return Note(
        line=note.line,
        title=redact(note.title),
        expected=note.expected,
        actual=redact(note.actual),
        fix=redact(note.fix),
        kind=note.kind,
    )
