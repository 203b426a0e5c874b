"""Part of R6: a plateau schedule that looks at the metric from the wrong side."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe

__all__ = ["judge_plateau"]


def judge_plateau(probe: Probe, scheduler: Any, claims: Claims) -> None:
    """``ReduceLROnPlateau`` is given the monitored metric after each evaluation."""
    train = probe.config.train
    if not isinstance(scheduler, ReduceLROnPlateau) or scheduler.mode == train.mode:
        return
    claims.add(
        "warn",
        "the plateau schedule's mode is against that of the monitored metric: the "
        "learning rate falls while the run gets better",
        expected=f"mode='{train.mode}', as for monitor='{train.monitor}'",
        actual=f"ReduceLROnPlateau(mode='{scheduler.mode}')",
        fix=f"Give ReduceLROnPlateau mode='{train.mode}'.",
    )
