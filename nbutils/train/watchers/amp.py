"""Mixed precision: the loss scale, and what it cost."""

from __future__ import annotations

from nbutils.train.state import RunState
from nbutils.train.watchers.watcher import NEVER, Cadence, Parts, Watcher

__all__ = ["AmpMonitor"]


class AmpMonitor(Watcher):
    """Writes ``amp/skipped_steps``, and under fp16 ``amp/loss_scale amp/overflows``.

    The event ``run_start`` tells whether AMP is on, and which precision was requested
    and is in effect. Without mixed precision nothing is written. An overflow is a step
    whose loss is finite and whose scaled gradient is not.

    Args:
        every_steps: Look at each so many steps; by default at logged ones, at most
            once in two seconds.
    """

    def __init__(self, every_steps: int | None = None) -> None:
        self._cadence = Cadence(every_steps)
        self._is_on = False
        self.wake = NEVER

    def attach(self, parts: Parts) -> None:
        super().attach(parts)
        self._cadence.bind(parts.config)
        self._is_on = not parts.precision.is_plain

    def on_fit_start(self, state: RunState) -> None:
        planned = state.planned_steps
        self.wake = self._cadence.after(state.step, planned) if self._is_on else NEVER

    def on_step_end(self, state: RunState) -> None:
        if state.step < self.wake:
            return
        self.wake = self._cadence.after(state.step, state.planned_steps)
        if self._cadence.is_due(state.step, state.planned_steps):
            self._write(state)

    def on_stop(self, state: RunState) -> None:
        if self._is_on:  # what was on its way from the device has arrived
            self._write(state)

    def _write(self, state: RunState) -> None:
        values = {"amp/skipped_steps": float(state.skipped)}
        last = state.last
        if last is not None and last.scale is not None:
            values["amp/loss_scale"] = last.scale
            values["amp/overflows"] = float(state.overflows)
        self.write(state.step, values)
