"""Budgets for refused updates: how many are bad luck, how many are a fault."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nbutils.errors import NonFiniteStepError, SkipBudgetError
from nbutils.train.state import Reading, RunState

__all__ = ["SkipBudget"]


class SkipBudget:
    """Counts refused updates in a row and per epoch.

    A finite loss whose *scaled* gradient overflowed is how a loss scale settles;
    such steps are skipped but do not count, down to a scale of 1.
    """

    def __init__(self, guard: Any, steps_per_epoch: int | None) -> None:
        self._max_consecutive: int = guard.max_consecutive_refusals
        steps = steps_per_epoch or 1000
        self._max_per_epoch = max(
            math.ceil(guard.max_refused_fraction * steps), self._max_consecutive
        )

    def observe(
        self, reading: Reading, state: RunState, scale: float | None, saved: Path | None
    ) -> None:
        """Judge one window.

        Raises:
            NonFiniteStepError: Refused, and the budget allows none at all.
            SkipBudgetError: More refused than the budget allows.
        """
        if not reading.is_refused:
            state.consecutive_skipped = 0
            return
        if scale is not None and scale > 1 and math.isfinite(reading.loss):
            return
        state.consecutive_skipped += 1
        if self._max_consecutive == 0:
            raise NonFiniteStepError(_describe(reading, saved))
        in_a_row = state.consecutive_skipped > self._max_consecutive
        if in_a_row or state.epoch_skipped > self._max_per_epoch:
            raise SkipBudgetError(
                f"{state.consecutive_skipped} updates in a row and "
                f"{state.epoch_skipped} in this epoch were refused; the budget is "
                f"{self._max_consecutive} in a row and {self._max_per_epoch} an epoch. "
                + _describe(reading, saved)
            )


def _describe(reading: Reading, saved: Path | None) -> str:
    where = f" The refused batch is saved in {saved}." if saved else ""
    return (
        f"Step {reading.step} was refused before the weights changed: "
        f"loss={reading.loss:g}, grad_norm={reading.grad_norm:g}.{where} Look for NaN "
        "in that batch; resume with a lower lr, a smaller clip_norm, or "
        "precision='fp32'."
    )
