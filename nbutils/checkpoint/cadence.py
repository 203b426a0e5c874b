"""When a run is saved: to the letter where that was asked for, else by its cost."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["Cadence"]

MIN_INTERVAL_S, MAX_UNMEASURED_S = 30.0, 900.0
# Share of the background write's time by which it slows the loop down.
CONTENTION = 0.2
# Before the first save is measured: bytes per second of a copy, and of a write.
COPY_RATE = 1e9
WRITE_RATE = 3e8


class Cadence:
    """Decides whether a save is due; it reads no clock and touches no file.

    ``save_every_steps``, ``save_every_minutes`` and a ``save_every_epochs`` that
    somebody set are kept to the letter. Saves that nobody asked for are due once the
    time since the last save is so long that this save's cost is at most
    ``max_save_fraction`` of it; inside an epoch half a minute at least, and only
    where neither steps nor minutes are set. A new best is always saved, and so is an
    epoch's end while fewer than ``keep_last`` checkpoints exist.

    Args:
        section: The config's checkpoint section.
        is_epochs_asked: ``save_every_epochs`` is no mere default.
    """

    def __init__(self, section: Any, *, is_epochs_asked: bool) -> None:
        self._every_steps: int | None = section.save_every_steps
        self._every_epochs: int | None = section.save_every_epochs
        minutes: float | None = section.save_every_minutes
        self._every_s = math.inf if minutes is None else 60 * minutes
        self._max_fraction: float = section.max_save_fraction
        self._keep_last: int = section.keep_last
        self._is_epochs_asked = is_epochs_asked
        self._is_automatic = self._every_steps is None and minutes is None
        self._num_kept = 0
        self._cost_s = 0.0
        self._is_measured = False
        self._saved_s = 0.0
        self._due_s = math.inf

    @property
    def interval_s(self) -> float:
        """Time between saves that nobody asked for, in seconds."""
        interval = max(MIN_INTERVAL_S, self._cost_s / self._max_fraction)
        # An estimate may be far too high: the first save is not put off for long.
        return interval if self._is_measured else min(interval, MAX_UNMEASURED_S)

    def start(self, now: float, *, num_kept: int) -> None:
        """The run begins at ``now``, with ``num_kept`` checkpoints on disk."""
        self._num_kept = num_kept
        self._saved_s = now
        self._plan()

    def estimate(self, num_bytes: int) -> None:
        """What a save of so many bytes may cost, until one has been measured."""
        if not self._is_measured:
            stall, write = num_bytes / COPY_RATE, num_bytes / WRITE_RATE
            self._cost_s = stall + CONTENTION * write
            self._plan()

    def is_due(self, step: int, now: float) -> bool:
        """Whether to save after this window."""
        if now >= self._due_s:
            return True
        return self._every_steps is not None and step % self._every_steps == 0

    @property
    def is_automatic(self) -> bool:
        """Whether nobody asked for the saves inside an epoch."""
        return self._is_automatic

    def is_due_at_epoch(self, epoch: int, now: float, *, is_new_best: bool) -> bool:
        """Whether to save after this epoch, the ``epoch``-th."""
        if is_new_best:
            return True
        if self._every_epochs is None or epoch % self._every_epochs:
            return False
        if self._is_epochs_asked or self._num_kept < self._keep_last:
            return True
        return now - self._saved_s >= self._cost_s / self._max_fraction

    def saved(self, now: float) -> None:
        """A snapshot was taken at ``now``."""
        self._num_kept += 1
        self._saved_s = now
        self._plan()

    def measured(self, stall_s: float, write_s: float) -> None:
        """What a save has cost: the loop stood still, then a thread wrote."""
        cost = stall_s + CONTENTION * write_s
        is_higher = not self._is_measured or cost > self._cost_s
        self._cost_s = cost if is_higher else (self._cost_s + cost) / 2
        self._is_measured = True
        self._plan()

    def _plan(self) -> None:
        wait = self.interval_s if self._is_automatic else self._every_s
        self._due_s = self._saved_s + wait
