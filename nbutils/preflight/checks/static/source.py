"""S5: the user's own code, read and not run, holds no fault that can be seen in it."""

from __future__ import annotations

from nbutils.preflight.check import Check, Claims
from nbutils.preflight.pieces import (
    Note,
    find_pieces,
    hidden_weights,
    read_pieces,
)
from nbutils.preflight.probe import Probe

__all__ = ["CHECK"]

MAX_WARNINGS = 6
MAX_TOLD = 12


def run(probe: Probe, claims: Claims) -> None:
    """Read every function of the user's that the task leads to."""
    pieces = find_pieces(probe.task)
    for piece in pieces:
        piece.found["is_task_model"] = piece.live is probe.task.model
    probe.facts["pieces"] = pieces
    found = [(piece.place(note.line), note) for piece, note in read_pieces(pieces)]
    hidden = list(hidden_weights(probe.task, pieces))
    if probe.facts["depth"] == "static" or probe.obstacle:
        found += hidden
    else:  # R6 looks whether the loss reaches them
        claims.show((place, note.title) for place, note in hidden)
    is_tried = probe.facts["depth"] != "static" and not probe.obstacle  # R4 looks
    if is_tried or "random in eval" in probe.task.declares:
        found = [(p, n) for p, n in found if n.title != "dropout stays on in eval mode"]
    warned = [pair for pair in found if pair[1].kind == "warn"]
    told = [pair for pair in found if pair[1].kind == "tell"]
    for place, note in warned[:MAX_WARNINGS]:
        _warn(place, note, claims)
    for place, note in warned[MAX_WARNINGS:]:
        claims.show([(place, note.title)])
    probe.facts["cuts"] = [f"{place}: {note.title}" for place, note in told]
    claims.show((place, note.title) for place, note in told[:MAX_TOLD])
    if not pieces:
        claims.add("skip", "no source of your own to read")
    elif not warned:
        noun = "function" if len(pieces) == 1 else "functions"
        claims.add("pass", f"{len(pieces)} {noun} of your own read")


def _warn(place: str, note: Note, claims: Claims) -> None:
    claims.add(
        "warn",
        f"{note.title} ({place})",
        expected=note.expected,
        actual=note.actual,
        fix=note.fix,
    )


CHECK = Check(
    id="S5",
    title="Your own code reads sound",
    why="Some faults run without an error and show in no number: a term that was cut "
    "from the gradient, a reader that invents samples.",
    run=run,
    depth="static",
)
