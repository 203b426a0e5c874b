"""What decides when a run ends: patience, target, time; and the average's decay."""

from __future__ import annotations

from nbutils.train.state import RunState
from nbutils.train.watchers.watcher import Watcher

__all__ = ["StoppingMonitor"]


class StoppingMonitor(Watcher):
    """After each evaluation, how far the run is from ending early.

    Writes ``stop/misses`` and ``stop/patience_left`` (evaluations) with ``patience``,
    ``stop/target_gap`` (monitored value minus target) with ``target``,
    ``stop/seconds_left`` with ``max_hours``, and ``ema/decay``, the decay in effect,
    with ``ema_decay``. The settings themselves stand in ``run_start``.
    """

    def on_evaluate_end(self, state: RunState) -> None:
        self._write(state)

    def on_epoch_end(self, state: RunState) -> None:
        if not state.metrics:  # else it was told after the evaluation
            self._write(state)

    def _write(self, state: RunState) -> None:
        train = self.parts.config.train
        values: dict[str, float] = {}
        if train.patience is not None:
            values["stop/misses"] = float(state.num_misses)
            values["stop/patience_left"] = float(train.patience - state.num_misses)
        value = None
        if state.best is not None and state.history:
            value = state.history[-1].get(state.best["metric"])
        if train.target is not None and value is not None:
            values["stop/target_gap"] = float(value) - train.target
        if train.max_hours is not None:
            left_s = 3600 * train.max_hours - state.seconds
            values["stop/seconds_left"] = max(left_s, 0.0)
        if self.parts.ema is not None:
            values["ema/decay"] = self.parts.ema.current_decay()
        self.write(state.step, values)
