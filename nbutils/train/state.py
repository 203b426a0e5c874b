"""What a run knows about itself; the part of it that a resume must restore."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

__all__ = ["Reading", "RunState"]


@dataclass(frozen=True)
class Reading:
    """What one window did, on the host; ``scale``: the loss scale after it, if any."""

    step: int
    loss: float
    grad_norm: float
    is_refused: bool
    terms: dict[str, float]
    num_targets: int
    scale: float | None = None

    @property
    def is_overflow(self) -> bool:
        """Whether the loss was finite and its scaled gradient was not."""
        has_scale = self.scale is not None and math.isfinite(self.loss)
        return has_scale and not math.isfinite(self.grad_norm)


@dataclass
class RunState:
    """Counters, records and the request to stop.

    Attributes:
        step: Windows attempted, that is, updates applied or refused.
        epoch: Completed passes over the training data.
        batch: Batches consumed in the pass that is under way.
        batch_size: Samples in each of those batches; none where no plan says so.
        order: What the order of the pass follows from: seed, shuffle, num_samples.
        skipped: Refused updates.
        overflows: Those of a finite loss whose scaled gradient was not finite.
        epoch_refusals: Those of this pass that count against the budget: not the ones
            by which a loss scale settles.
        rollbacks: Returns to an earlier snapshot, the last one to ``rolled_back_to``.
        history: One row per evaluated pass.
        best: Metric, value, step and epoch of the best evaluation so far.
        stop_reason: Why the run ends; none while it goes on.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    num_samples: int = 0
    batch_size: int | None = None
    order: dict[str, Any] | None = None
    skipped: int = 0
    epoch_loss_sum: float = 0.0
    epoch_targets: int = 0
    epoch_skipped: int = 0
    epoch_refusals: int = 0
    consecutive_skipped: int = 0
    rollbacks: int = 0
    rolled_back_to: int | None = None
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    num_misses: int = 0
    overflows: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    is_evaluated: bool = True
    lr: float = 0.0
    finished_by: str | None = None
    # below: not part of a snapshot
    stop_reason: str | None = None
    last: Reading | None = None
    is_new_best: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)
    planned_steps: int | None = None
    steps_per_epoch: int | None = None
    model: nn.Module | None = None
    run_dir: Path | None = None
    checkpoint: dict[str, Any] | None = None
    alarms: list[str] = field(default_factory=list)

    def request_stop(self, reason: str) -> None:
        """End after the current window; the first reason wins."""
        self.end(f"requested: {reason}")

    def end(self, reason: str) -> None:
        """Set the stop reason if none is set yet."""
        self.stop_reason = self.stop_reason or reason
        if self.stop_reason in ("target", "patience"):
            self.finished_by = self.stop_reason

    def record(self, reading: Reading) -> None:
        """Count one window that has been read back."""
        self.last = reading
        if reading.is_refused:
            self.skipped += 1
            self.epoch_skipped += 1
            self.overflows += reading.is_overflow
            return
        self.epoch_loss_sum += reading.loss * reading.num_targets
        self.epoch_targets += reading.num_targets

    def start_epoch(self) -> None:
        """Clear what is counted per pass."""
        self.batch = self.epoch_targets = 0
        self.epoch_skipped = self.epoch_refusals = 0
        self.epoch_loss_sum = self.epoch_seconds = 0.0

    def train_loss(self) -> float:
        """Mean loss per target of this pass's applied windows; NaN without any."""
        if not self.epoch_targets:
            return float("nan")
        return self.epoch_loss_sum / self.epoch_targets

    def state_dict(self) -> dict[str, Any]:
        """Everything a resume needs, as plain numbers, lists and dicts."""
        return {name: getattr(self, name) for name in _SAVED}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; an older one may lack a counter."""
        for name in _SAVED:
            setattr(self, name, state.get(name, getattr(self, name)))


_SAVED = [item.name for item in fields(RunState)]
_SAVED = _SAVED[: _SAVED.index("stop_reason")]
