"""R11: faults on purpose; each is refused, named or survived, and none is hidden."""

from __future__ import annotations

import time

from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.run.hidden import judge_hidden
from nbutils.preflight.checks.run.injections import judge_injections
from nbutils.preflight.checks.run.readers import judge_readers
from nbutils.preflight.checks.run.swallowed import judge_swallowed
from nbutils.preflight.probe import Probe

__all__ = ["CHECK"]


def run(probe: Probe, claims: Claims) -> None:
    """What hides a fault at any depth; in a rehearsal, faults in the real loop."""
    parts = [judge_hidden, judge_swallowed, judge_readers]
    if probe.facts.get("depth") == "rehearsal":
        parts.append(judge_injections)
    for judge in parts:
        started = time.perf_counter()
        judge(probe, claims)
        probe.rewind()
        if probe.seconds_left < time.perf_counter() - started:
            claims.add("skip", "faults on purpose: the rest was left out, time is over")
            return
    claims.add("pass", "faults on purpose come to light")


CHECK = Check(
    id="R11",
    title="Faults on purpose are refused or told, and none is hidden",
    why="A fault that something hides spoils the run without an error.",
    run=run,
    needs=("R6",),
    limit_s=40.0,
)
