"""S2: what was declared is read, under the name that was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from nbutils.preflight.check import Check, Claims
from nbutils.preflight.lints.lint import ALLOW
from nbutils.preflight.pieces import find_pieces, unread_arguments
from nbutils.preflight.probe import Probe

__all__ = ["CHECK", "DECLARATIONS", "EXTRAS"]

DECLARATIONS = (
    "frozen on purpose",
    "missing values",
    "random in eval",
    "random validation",
    "samples interact",
    "samples repeat",
    "terms may rest",
    "validation is train",
)
"""Facts that a check reads in ``task.declares``."""

EXTRAS = (
    "bad_files",
    "class_names",
    "data_config",
    "dataset",
    "license",
    "price_per_hour",
    "target_unit",
    "units",
)
"""Keys that something reads in ``task.extras``; others are the user's own."""

MAX_TOLD = 8


def run(probe: Probe, claims: Claims) -> None:
    """Compare names with those that are read, and arguments with what uses them."""
    task = probe.task
    _judge_names("declares", task.declares, DECLARATIONS, claims)
    _judge_names("extras", map(str, task.extras), EXTRAS, claims)
    _judge_arguments(probe, claims)
    if not claims.claims:
        claims.add("pass", "what was declared is read")


def _judge_names(
    where: str, given: Iterable[str], known: tuple[str, ...], claims: Claims
) -> None:
    for name in given:
        if name in known:
            continue
        plain = name.lower().replace("_", " ").replace("-", " ").strip()
        alike = {entry.replace("_", " "): entry for entry in known}
        near = get_close_matches(plain, alike, 1, 0.75)
        if not near:
            if where == "declares":
                claims.show([(f"declared {name!r}", "no check reads it")])
            continue
        meant = alike[near[0]]
        claims.add(
            "warn",
            f"{where} has {name!r}, which nothing reads: did you mean {meant!r}?",
            expected="a name that a check or a report reads",
            actual=repr(name),
            fix=f"Write {meant!r}.",
        )


def _judge_arguments(probe: Probe, claims: Claims) -> None:
    pieces = probe.facts.get("pieces")
    pieces = find_pieces(probe.task) if pieces is None else pieces
    told: list[tuple[str, str]] = []
    for piece, note in unread_arguments(pieces):
        place = piece.place(note.line)
        if "S2" in piece.file.line(note.line).partition(ALLOW)[2]:
            continue
        if note.kind == "tell":
            told.append((place, note.title))
            continue
        claims.add(
            "warn",
            f"{note.title} ({place})",
            expected=note.expected,
            actual=note.actual,
            fix=note.fix,
        )
    claims.show(told[:MAX_TOLD])


CHECK = Check(
    id="S2",
    title="What was declared is read",
    why="A knob that nothing reads makes two runs equal that were meant to differ.",
    run=run,
    depth="static",
)
