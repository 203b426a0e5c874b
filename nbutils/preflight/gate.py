"""The gate before a run: a verdict for this config, code and data, or none starts."""

from __future__ import annotations

from typing import Any

from nbutils.errors import PreflightError
from nbutils.monitor.display import show
from nbutils.preflight.runner import preflight
from nbutils.preflight.verdict import verdict_is_current

__all__ = ["demand_verdict"]


def demand_verdict(task: Any, config: Any) -> None:
    """Do what ``config.preflight.preflight`` says: run the checks, require, or skip.

    Raises:
        PreflightError: A check failed, or a verdict was required and there is none.
    """
    mode = config.preflight.preflight
    if mode == "skip":
        return
    is_current, reason = verdict_is_current(task, config)
    if is_current:
        return
    if mode == "require":
        raise PreflightError(
            f"preflight='require', and there is no current verdict: {reason}. "
            "Run nb.preflight(task, config) first."
        )
    if task.verdict is not None:
        show(f"preflight runs again: {reason}")
    preflight(task, config)
