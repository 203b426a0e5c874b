"""Best, patience and target: what an evaluation means for the run."""

from __future__ import annotations

import math
from typing import Any

from nbutils.errors import ConfigError
from nbutils.train.state import RunState

__all__ = ["judge_evaluation"]


def judge_evaluation(state: RunState, train: Any, row: dict[str, Any]) -> float | None:
    """Update ``state.best`` and ask for the stop that patience or target wish.

    Args:
        train: The config's train section: ``monitor mode patience target``.
        row: The epoch's numbers, by name.

    Returns:
        The monitored value; none if there is no validation data to give one.

    Raises:
        ConfigError: ``monitor`` names nothing that was measured.
    """
    name = _monitored(train, row)
    if name is None:
        return None
    value = float(row[name])
    sign = 1.0 if train.mode == "min" else -1.0
    best = math.inf if state.best is None else sign * state.best["value"]
    state.is_new_best = sign * value < best  # NaN is not below anything
    if state.is_new_best:
        state.best = {
            "metric": name,
            "value": value,
            "step": state.step,
            "epoch": row.get("epoch", state.epoch),
        }
        state.num_misses = 0
    else:
        state.num_misses += 1
    if train.target is not None and sign * value <= sign * train.target:
        _finish(state, "target")
    elif train.patience is not None and state.num_misses >= train.patience:
        _finish(state, "patience")
    return value


def _finish(state: RunState, reason: str) -> None:
    """End for good, even if another reason to stop came first."""
    state.finished_by = reason
    state.end(reason)


def _monitored(train: Any, row: dict[str, Any]) -> str | None:
    numbers = [k for k, v in row.items() if isinstance(v, float)]
    for name in (train.monitor, f"val_{train.monitor}"):
        if name in numbers:
            return name
    has_validation = any(name.startswith("val_") for name in numbers)
    if train.monitor == "val_loss" and not has_validation:
        return "train_loss"  # the default, and there is no validation data
    raise ConfigError(
        [
            f"monitor is {train.monitor!r}, which this run does not measure; "
            f"expected one of {', '.join(sorted(numbers))}."
        ]
    )
