"""Part of R4 and R6: a variant that cannot be tried is told, and fails no task."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from nbutils.preflight.blame import is_ours, quote
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import attempt

__all__ = ["judge_part"]


def judge_part(name: str, judge: Callable[[], None], claims: Claims) -> None:
    """Run one part of a check; what it raises becomes a skipped claim.

    Such parts run the task in ways that the run never does: with other inputs, other
    rates, other outputs. An exception there says nothing about the task.
    """
    _, error = attempt(judge)
    if error is None:
        return
    if is_ours(error):  # told, and looked for by the tests of the gallery
        traced = "".join(traceback.format_exception(error))
        claims.show([(f"a fault of nbutils, {name}", traced)])
    claims.add("skip", f"{name}: not judged", actual=quote(error))
