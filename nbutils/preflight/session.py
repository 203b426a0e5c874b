"""Runs checks in order on one probe, and leaves the task exactly as it was."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nbutils.errors import ConfigError
from nbutils.preflight.alarm import Overdue, interrupting
from nbutils.preflight.blame import is_ours, quote
from nbutils.preflight.check import BUDGET_S, SEVERITIES, Check, Claims, Finding
from nbutils.preflight.fake import TooLarge, obstacle
from nbutils.preflight.frozen import Frozen, kept_rng, left_alone, left_data_alone
from nbutils.preflight.probe import Probe

__all__ = ["DEPTHS", "INTERRUPTED", "run_checks"]

DEPTHS = ("static", "standard", "rehearsal")
INTERRUPTED = "interrupted at"
"""Label of the detail that tells where a check was given up."""

NO_START_S = {"static": 30.0, "standard": 75.0, "rehearsal": float("inf")}
"""Seconds after which no further check begins."""

HARD_FACTOR = {"static": 4.0, "standard": 2.0, "rehearsal": 20.0}
"""Times its own limit after which a check is interrupted."""

# On tensors without values: left to checks that run the real model, where one can be
# run. An error inside torch's dispatch, an interrupt for instance, may end the process.
UNREAL = frozenset({"S8"})


def run_checks(
    task: Any, config: Any, checks: Sequence[Check], depth: str = "standard"
) -> list[Finding]:
    """Findings of the checks of a depth, the gravest first.

    Model, loss, data, generators and gradients are as they were when this returns or
    raises.

    Raises:
        ConfigError: There is no such depth.
    """
    if depth not in DEPTHS:
        known = ", ".join(map(repr, DEPTHS))
        raise ConfigError([f"depth is {depth!r}; the depths are {known}."])
    chosen = [c for c in checks if DEPTHS.index(c.depth) <= DEPTHS.index(depth)]
    probe = Probe(task, config)
    probe.facts["depth"] = depth
    probe.obstacle = obstacle(task, config)
    if depth != "static" and not probe.obstacle:
        chosen = [check for check in chosen if check.id not in UNREAL]
    alone = _left_alone(task, depth, with_model=not probe.obstacle)
    with kept_rng(), alone as home, torch.enable_grad():
        probe.home = home
        start_s = time.perf_counter()
        for check in chosen:
            now_s = time.perf_counter()
            probe.deadline_s = min(now_s + check.limit_s, start_s + BUDGET_S[depth])
            reason = _no_start(probe, now_s - start_s)
            finding = _skipped(check, reason) if reason else _run_one(check, probe)
            probe.findings[check.id] = finding
            if finding.severity == "fail":
                probe.stopped.add(check.id)
    return sorted(probe.findings.values(), key=lambda f: SEVERITIES.index(f.severity))


@contextmanager
def _left_alone(task: Any, depth: str, *, with_model: bool) -> Iterator[Frozen | None]:
    """Put the task's objects back on leaving; a static look changes none.

    A model that no check can run is not copied: there may be no room for it.
    """
    if depth == "static":
        yield None
        return
    makers = (task.make_optimizer, task.make_schedule, task.count_targets)
    functions = (task.forward_function, task.collate, *makers, *_metrics(task.metrics))
    parts = [*([task.model] if with_model else []), task.loss, *functions]
    modules = [part for part in parts if isinstance(part, nn.Module)]
    others = [p for p in parts if p is not None and not isinstance(p, nn.Module)]
    with (
        left_alone(others, whole=False),
        left_data_alone(task),
        left_alone(modules, whole=True) as frozen,
    ):
        yield frozen


def _metrics(metrics: Any) -> list[Any]:
    return list(metrics.values()) if isinstance(metrics, Mapping) else [metrics]


def _no_start(probe: Probe, spent_s: float) -> str:
    """Why no further check begins; empty while there is time."""
    if "overdue" in probe.facts:
        return f"{probe.facts['overdue']} did not end"
    limit_s = NO_START_S[probe.facts["depth"]]
    return f"the checks before it took {spent_s:.0f} s" if spent_s > limit_s else ""


def _skipped(check: Check, reason: str) -> Finding:
    title = f"{check.title}: not judged, {reason}"
    return Finding(id=check.id, severity="skip", title=title, why=check.why)


def _run_one(check: Check, probe: Probe) -> Finding:
    """One check; what the user's code raises becomes a finding."""
    failed = [name for name in check.needs if name in probe.stopped]
    if failed:
        probe.stopped.add(check.id)
        return _skipped(check, f"{' and '.join(failed)} did not pass")
    claims = Claims()
    start = time.perf_counter()
    limit_s = check.limit_s * HARD_FACTOR[probe.facts["depth"]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's own run will show them
            probe.rewind()
            with interrupting(limit_s):
                check.run(probe, claims)
    except Overdue as overdue:
        _note_overdue(check, overdue, time.perf_counter() - start, probe, claims)
    except TooLarge as reason:
        probe.stopped.add(check.id)
        claims.add("skip", f"{check.title}: not judged, {reason}")
    except Exception as error:  # a user's code may raise anything; it is reported
        _note_exception(error, probe, claims)
    finally:
        probe.rewind()
    return replace(claims.finding(check), cost_s=time.perf_counter() - start)


def _note_overdue(
    check: Check, overdue: Overdue, seconds: float, probe: Probe, claims: Claims
) -> None:
    """A check that hangs ends them all: the next one would run into the same code."""
    probe.facts["overdue"] = check.id
    probe.stopped.add(check.id)
    claims.show([(INTERRUPTED, overdue.place)])
    is_slow = bool(probe.trace and probe.trace.running)  # a large model, no more
    claims.add(
        "skip" if is_slow else "warn",
        f"{check.title}: given up, your code was still running after {seconds:.0f} s",
        expected=f"an end within {check.limit_s:.0f} s",
        actual=overdue.place,
        fix="Look for an endless loop, a sleep or a slow reader there; the checks "
        "that follow were not run.",
    )


def _note_exception(error: Exception, probe: Probe, claims: Claims) -> None:
    place = probe.trace.where() if probe.trace else ""
    if not place and is_ours(error):
        claims.show([("traceback", "".join(traceback.format_exception(error)))])
        claims.add(
            "skip",
            f"not judged to the end: {quote(error)}; that is a fault of nbutils",
            fix="Please report it with the traceback below; your run may start.",
        )
        return
    claims.add(
        "fail",
        f"{type(error).__name__} stopped the check",
        expected="no exception",
        actual="\n".join(part for part in (quote(error), place) if part),
        fix="Mend what the message names, then run preflight again.",
    )
