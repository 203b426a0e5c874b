"""W4: after several evaluations the model is still no better than a constant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from nbutils.monitor.watchdogs.alarm import Alarm, Pass
from nbutils.monitor.watchdogs.statistics import SIGNIFICANT, noise, trend

__all__ = ["BaselineWatchdog", "Level"]

MIN_PASSES = 5
MIN_UPDATES = 50
MARGIN = 0.01
SETTLED = 0.1


@dataclass(frozen=True, slots=True)
class Level:
    """A loss that needs no learning.

    Attributes:
        value: The loss.
        name: What reaches it, for the text.
        is_guess: Whether the loss may be another function: then only values close to
            the level count as lying there, not those above it.
    """

    value: float
    name: str
    is_guess: bool = False


class BaselineWatchdog:
    """Validation losses that neither beat a trivial level nor fall towards it.

    Args:
        levels: What trivial predictors reach; without any, nothing is judged.
    """

    def __init__(self, levels: list[Level]) -> None:
        self._levels = levels
        self._val: list[float] = []
        self._train: list[float] = []
        self._lr: list[float] = []

    def observe(self, done: Pass) -> Iterator[Alarm]:
        """Judge a pass; those of the warm-up do not count."""
        if done.val_loss is None or done.is_warming_up:
            return
        self._val.append(done.val_loss)
        self._train.append(done.train_loss)
        self._lr.append(done.lr)
        if len(self._val) < MIN_PASSES or done.num_updates < MIN_UPDATES:
            return
        if not all(map(math.isfinite, self._val)):
            return
        if self._falls(self._val) and not self._has_settled():
            return
        for level in self._levels:
            if self._lies_at(level):
                yield from self._judge(level)
                return

    def _judge(self, level: Level) -> Iterator[Alarm]:
        is_below = self._train[-1] < level.value - 5 * MARGIN * abs(level.value)
        learns = is_below and self._falls(self._train)
        if learns and len(self._val) < 2 * MIN_PASSES:
            return  # a late start is no fault yet
        train = (
            "The training loss falls, so it learns by heart: check that both splits "
            "come from one distribution, and for leaks."
            if learns
            else "The training loss does no better: check labels against inputs, the "
            "lr, and that the inputs reach the loss."
        )
        yield Alarm(
            "W4",
            "level",
            f"after {len(self._val)} evaluations the validation loss is "
            f"{self._val[-1]:.4g}; {level.name} reaches {level.value:.4g} without "
            f"learning anything. {train}",
            is_serious=True,
        )

    def _lies_at(self, level: Level) -> bool:
        margin = max(3 * noise(self._val), MARGIN * abs(level.value))
        if level.is_guess:
            return all(abs(value - level.value) <= margin for value in self._val)
        return min(self._val) >= level.value - margin

    def _has_settled(self) -> bool:
        """Whether a fall has come to rest: a constant answer is still learnt at first.

        Counted per learning rate, so that a small one, or one on its way to 0, is no
        rest.
        """
        half = len(self._val) // 2
        if half < MIN_PASSES:
            return False
        pairs = zip(pairwise(self._val), self._lr[1:], strict=True)
        rates = [(before - after) / lr if lr else 0.0 for (before, after), lr in pairs]
        early, late = sum(rates[:half]), sum(rates[-half:])
        return early > 0 and late < SETTLED * early

    @staticmethod
    def _falls(values: list[float]) -> bool:
        """Whether they fall beyond chance, over all passes or over the last ones."""
        return min(trend(values), trend(values[-MIN_PASSES:])) < -SIGNIFICANT
