"""S1: this machine can run what the configuration asks for."""

from __future__ import annotations

from nbutils.environment.doctor import doctor
from nbutils.errors import NbutilsError
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe

__all__ = ["CHECK"]


def run(probe: Probe, claims: Claims) -> None:
    """Judge the doctor's facts and the device that the configuration names."""
    report = doctor()
    wanted = probe.config.train.device
    try:
        device = probe.device
    except NbutilsError as error:
        claims.add(
            "fail",
            f"device '{wanted}' cannot be used",
            expected=f"device '{wanted}' on this machine",
            actual=str(error),
            fix="Set device='auto', or move to a machine that has it.",
        )
    else:
        claims.add(
            "pass",
            f"device '{wanted}' gives {device}",
            expected=wanted,
            actual=str(device),
        )
    for advice in report.advice:
        if advice.severity in ("warn", "fail"):
            claims.add(advice.severity, advice.what, actual=advice.why, fix=advice.fix)
    shown = ("python", "torch", "processor", "memory")
    claims.show((k, report.facts[k]) for k in shown if k in report.facts)


CHECK = Check(
    id="S1",
    title="The machine is ready",
    why="A stale kernel or a missing device ends a run after it was paid for.",
    run=run,
    depth="static",
)
