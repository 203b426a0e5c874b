"""W1: a metric or the weights do not move while the run trains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from nbutils.monitor.watchdogs.alarm import Alarm, Pass

__all__ = ["FrozenWatchdog"]

SAME = 1e-6
MOVING = 1e-3
CONVERGED = 0.1


class FrozenWatchdog:
    """Weights that stand still, a training loss of exactly 0, a validation loss stuck.

    Each has an innocent twin, and stays silent in it: weights may rest where the
    learning rate or the loss is 0; a hinge loss may reach 0 by falling; a validation
    loss may repeat where the weights hardly move.
    """

    def __init__(self) -> None:
        self._first_loss: float | None = None
        self._last_loss = math.nan
        self._num_updates = 0
        self._repeats: list[tuple[float, float]] = []

    def observe(
        self, done: Pass, last_window_loss: float = math.nan
    ) -> Iterator[Alarm]:
        """Judge a pass.

        Args:
            done: The pass.
            last_window_loss: Last loss before this pass that was not 0.
        """
        if self._first_loss is None and math.isfinite(done.train_loss):
            self._first_loss = done.train_loss
        first = 0.0 if self._first_loss is None else self._first_loss
        num_new, self._num_updates = (
            done.num_updates - self._num_updates,
            done.num_updates,
        )
        yield from self._weights(done, num_new)
        yield from self._train_loss(done, first, last_window_loss)
        yield from self._val_loss(done, first)
        self._last_loss = done.train_loss

    def _weights(self, done: Pass, num_new: int) -> Iterator[Alarm]:
        if done.movement == 0.0 and num_new > 0 and done.lr > 0 and done.train_loss:
            yield Alarm(
                "W1",
                "weights",
                f"the weights did not move in epoch {done.epoch}, after {num_new} "
                f"updates at a learning rate of {done.lr:g}. Check that the optimizer "
                "owns this model's parameters, that the loss is not detached, and that "
                "lr is not too small for the precision.",
                is_serious=True,
            )

    def _train_loss(
        self, done: Pass, first: float, last_window_loss: float
    ) -> Iterator[Alarm]:
        if done.train_loss != 0.0 or not done.num_updates:
            return
        known = [x for x in (last_window_loss, self._last_loss) if math.isfinite(x)]
        has_fallen = any(0 < abs(loss) <= CONVERGED * abs(first) for loss in known)
        was_zero = self._last_loss == 0.0 and first != 0.0
        if not has_fallen and not was_zero:
            yield Alarm(
                "W1",
                "train_loss",
                f"the training loss is exactly 0 in epoch {done.epoch}, and it did not "
                "get there by falling: nothing is learnt. Look for a loss that catches "
                "its errors, a mask that is always 0, or targets made of the outputs.",
                is_serious=True,
            )

    def _val_loss(self, done: Pass, first: float) -> Iterator[Alarm]:
        if done.val_loss is None or done.movement is None or done.is_warming_up:
            return
        self._repeats = [*self._repeats, (done.val_loss, done.movement)][-3:]
        values = [value for value, _ in self._repeats]
        if len(values) < 3 or not all(map(math.isfinite, values)):
            return
        moved = all(movement >= MOVING for _, movement in self._repeats[1:])
        same = all(abs(a - b) <= SAME * abs(a) for a, b in pairwise(values))
        is_low = values[-1] == 0.0 and abs(done.train_loss) <= CONVERGED * abs(first)
        if moved and same and not is_low:
            yield Alarm(
                "W1",
                "val_loss",
                f"the validation loss is {values[-1]:.6g} for the third time in a row "
                "while the weights move. Check that validation reads this model and "
                "this data, and that its outputs depend on its inputs.",
                is_serious=True,
            )
