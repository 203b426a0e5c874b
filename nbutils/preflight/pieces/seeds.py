"""S5: a fixed seed that is set again with each sample or each batch."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nbutils.preflight.lints.syntax import literal
from nbutils.preflight.pieces.piece import Note, Piece, Rule

__all__ = ["RULE"]


def _seeders() -> tuple[Any, ...]:
    """Asked each time: torch replaces its own once it compiles."""
    return (torch.manual_seed, torch.random.manual_seed, random.seed, np.random.seed)


def _run(piece: Piece) -> Iterator[Note]:
    if piece.name.endswith("__len__"):
        return
    for call in piece.calls():
        found = piece.resolve(call.func)
        is_fixed = len(call.args) == 1 and isinstance(literal(call.args[0]), int)
        if is_fixed and any(found == seeder for seeder in _seeders()):
            yield Note(
                line=call.lineno,
                title="the seed is set again at each call: the same random numbers "
                "every time",
                expected="a seed that is set once, before training",
                actual=f"{ast.unparse(call)}: each dropout mask, draw and augmentation "
                "after it repeats",
                fix="Remove the line; the run seeds itself, from its setting seed.",
            )


RULE = Rule(
    id="S5.seed-inside", run=_run, roles=("model", "forward", "loss", "data", "collate")
)
