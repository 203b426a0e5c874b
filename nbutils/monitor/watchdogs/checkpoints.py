"""W9: the newest checkpoint is much older than it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nbutils.monitor.watchdogs.alarm import Alarm

__all__ = ["CheckpointWatchdog"]

LATE = 2.5
GRACE_S = 60.0
AUTOMATIC_S = 45 * 60.0


class CheckpointWatchdog:
    """Compares the age of the newest checkpoint with the cadence.

    Args:
        every_steps: Cadence in steps; none: not by steps.
        every_minutes: Cadence in minutes; none: not by minutes. Without both, saves
            come by themselves, at most 15 min apart, or at ends of epochs.
    """

    def __init__(self, every_steps: int | None, every_minutes: float | None) -> None:
        self._every_steps = every_steps or math.inf
        self._every_s = 60 * every_minutes if every_minutes else math.inf

    def observe(self, age_steps: int, age_s: float) -> Iterator[Alarm]:
        """Judge how long the last checkpoint is ago."""
        late_s = min(LATE * self._every_s + GRACE_S, AUTOMATIC_S)
        if math.isfinite(self._every_s) and self._every_s > AUTOMATIC_S / LATE:
            late_s = LATE * self._every_s
        is_explicit = math.isfinite(self._every_steps)
        too_many = age_steps > LATE * self._every_steps and age_s > GRACE_S
        too_old = age_s > late_s and not is_explicit
        if too_many or too_old:
            yield Alarm(
                "W9",
                "age",
                f"the newest checkpoint is {age_s / 60:.0f} min and {age_steps:,} "
                "steps old; the cadence promises newer ones. A crash now would cost "
                "that much. Look at the disk, and at messages about saving.",
            )
