"""Budgets for refused updates: how many are bad luck, how many are a fault."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbutils.errors import NonFiniteStepError
from nbutils.train.state import Reading, RunState

__all__ = ["ADVICE", "Evidence", "SkipBudget", "is_settling"]

ADVICE = (
    "Look at the refused batch and the module that was named; resume with a lower lr, "
    "a smaller clip_norm, or precision='fp32'."
)
STREAM_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a refused window.

    Attributes:
        path: File that holds its batches; none: not saved.
        how_to_load: Python that reads the file.
        culprit: Where the first bad value arose; none: not looked for.
    """

    path: Path | None = None
    how_to_load: str | None = None
    culprit: str | None = None


def is_settling(reading: Reading, scale: float | None) -> bool:
    """Whether a refusal is how a loss scale finds its value: no fault, down to 1."""
    if scale is None or scale <= 1:
        return False
    return math.isfinite(reading.loss) and not math.isfinite(reading.grad_norm)


class SkipBudget:
    """Counts refused updates in a row and per epoch.

    A finite loss whose *scaled* gradient overflowed is how a loss scale settles;
    such steps are skipped but do not count, down to a scale of 1.

    Args:
        guard: The config's guard section.
        steps_per_epoch: Planned windows of a pass; none where data has no length: then
            the share is taken of the windows of this pass so far, at least 1000.
        accumulation: Batches of a window.
    """

    def __init__(
        self, guard: Any, steps_per_epoch: int | None, accumulation: int = 1
    ) -> None:
        self._max_consecutive: int = guard.max_consecutive_refusals
        self._fraction: float = guard.max_refused_fraction
        self._steps_per_epoch = steps_per_epoch
        self._accumulation = accumulation
        self._forgiven_until = -1
        self._culprit = ""  # of the last window that was looked into

    def observe(
        self,
        reading: Reading,
        state: RunState,
        scale: float | None,
        evidence: Evidence | None,
    ) -> str | None:
        """Judge one window; gives the reason once the budget is spent.

        Raises:
            NonFiniteStepError: Refused, and the budget allows none at all.
        """
        if not reading.is_refused:
            state.consecutive_skipped = 0
            return None
        if is_settling(reading, scale) or reading.step <= self._forgiven_until:
            return None
        state.consecutive_skipped += 1
        state.epoch_refusals += 1
        if evidence is not None and evidence.culprit:
            self._culprit = f"Step {reading.step}, replayed: {evidence.culprit}."
        if self._max_consecutive == 0:
            raise NonFiniteStepError(f"{self._describe(reading, evidence)} {ADVICE}")
        allowed = self.allowed_per_epoch(state)
        in_a_row = state.consecutive_skipped > self._max_consecutive
        if not in_a_row and state.epoch_refusals <= allowed:
            return None
        return (
            f"{state.consecutive_skipped} updates in a row and "
            f"{state.epoch_refusals} in this epoch were refused; the budget is "
            f"{self._max_consecutive} in a row and {allowed} an epoch. "
            + self._describe(reading, evidence)
        )

    def allowed_per_epoch(self, state: RunState) -> int:
        """Refusals that one epoch may have; never fewer than may come in a row."""
        steps = self._steps_per_epoch
        if steps is None:
            steps = max(STREAM_STEPS, -(-state.batch // self._accumulation))
        share = int(self._fraction * steps + 1e-9)  # 0.29 * 100 is 28.999…
        return max(share, self._max_consecutive)

    def forgive(self, state: RunState) -> None:
        """Begin anew: windows up to now, read or not, count no more."""
        state.consecutive_skipped = state.epoch_refusals = 0
        self._forgiven_until = state.step

    def _describe(self, reading: Reading, evidence: Evidence | None) -> str:
        parts = [
            f"Step {reading.step} was refused before the weights changed: "
            f"loss={reading.loss:g}, grad_norm={reading.grad_norm:g}."
        ]
        if math.isfinite(reading.loss) and math.isfinite(reading.grad_norm):
            parts.append("Running statistics would have become non-finite.")
        if self._culprit:
            parts.append(self._culprit)
        if evidence is not None and evidence.path:
            parts.append(
                f"The refused batch is saved in {evidence.path}; read it with "
                f"{evidence.how_to_load}."
            )
        return " ".join(parts)
