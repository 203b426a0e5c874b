"""W7: the training loss falls while the validation loss rises."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nbutils.monitor.watchdogs.alarm import Alarm, Pass
from nbutils.monitor.watchdogs.statistics import SIGNIFICANT, noise, trend

__all__ = ["OverfitWatchdog"]

MIN_PASSES = 5
MIN_RISE = 0.02


class OverfitWatchdog:
    """A rise since the best evaluation that chance does not explain.

    A classifier may get surer, and its loss higher, while it still gets better: as
    long as the monitored metric improves, nothing is said.
    """

    def __init__(self) -> None:
        self._val: list[float] = []
        self._train: list[float] = []

    def observe(self, done: Pass) -> Iterator[Alarm]:
        """Judge a pass."""
        if done.val_loss is None or not math.isfinite(done.val_loss):
            return
        self._val.append(done.val_loss)
        self._train.append(done.train_loss)
        best = self._val.index(min(self._val))
        since, train = self._val[best:], self._train[best:]
        if len(since) <= MIN_PASSES or done.num_misses < MIN_PASSES:
            return
        rise = since[-1] - since[0]
        rises = rise > max(3 * noise(self._val), MIN_RISE * abs(since[0]))
        falls = train[-1] < train[0] - noise(train)
        if not (rises and falls):
            return
        if trend(since) > SIGNIFICANT and trend(train) < -SIGNIFICANT:
            yield Alarm(
                "W7",
                "overfit",
                f"the validation loss has risen from {since[0]:.4g} to {since[-1]:.4g} "
                f"over {len(since) - 1} evaluations while the training loss fell to "
                f"{train[-1]:.4g}: the model overfits. The best checkpoint is kept; "
                "patience=5 would have stopped here.",
            )
