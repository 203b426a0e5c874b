"""Runs checks in order on one probe, and leaves the task exactly as it was."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nbutils.errors import ConfigError
from nbutils.preflight.blame import quote
from nbutils.preflight.check import SEVERITIES, Check, Claims, Finding
from nbutils.preflight.fake import TooLarge, obstacle
from nbutils.preflight.frozen import Frozen, kept_rng, left_alone, left_data_alone
from nbutils.preflight.probe import Probe

__all__ = ["DEPTHS", "run_checks"]

DEPTHS = ("static", "standard", "rehearsal")
BUDGET_S = {"static": 5.0, "standard": 60.0, "rehearsal": float("inf")}

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
        over_s = time.perf_counter() + BUDGET_S[depth]
        for check in chosen:
            probe.deadline_s = min(time.perf_counter() + check.limit_s, over_s)
            finding = _run_one(check, probe)
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


def _run_one(check: Check, probe: Probe) -> Finding:
    """One check; what the user's code raises becomes a finding."""
    failed = [name for name in check.needs if name in probe.stopped]
    if failed:
        probe.stopped.add(check.id)
        return Finding(
            id=check.id,
            severity="skip",
            title=f"{check.title}: not judged, {' and '.join(failed)} did not pass",
            why=check.why,
        )
    claims = Claims()
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's own run will show them
            probe.rewind()
            check.run(probe, claims)
    except TooLarge as reason:
        probe.stopped.add(check.id)
        claims.add("skip", f"{check.title}: not judged, {reason}")
    except Exception as error:  # a user's code may raise anything; it is reported
        _note_exception(error, probe, claims)
    finally:
        probe.rewind()
    return replace(claims.finding(check), cost_s=time.perf_counter() - start)


def _note_exception(error: Exception, probe: Probe, claims: Claims) -> None:
    place = probe.trace.where() if probe.trace else ""
    claims.add(
        "fail",
        f"{type(error).__name__} stopped the check",
        expected="no exception",
        actual="\n".join(part for part in (quote(error), place) if part),
        fix="Mend what the message names, then run preflight again.",
    )
