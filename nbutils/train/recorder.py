"""Writes what happened to the event log; the log is the one source of every view."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from nbutils.monitor.events import EventLog
from nbutils.train.callback import Callback
from nbutils.train.loss_weights import LossWeights
from nbutils.train.state import RunState

__all__ = ["Recorder"]


class Recorder(Callback):
    """Turns hooks into events.

    Args:
        events: Where they go.
        every: Steps per ``step`` event.
        facts: Fields of the ``run_start`` event.
        weights: Told beside the terms where there are several, or phases.
    """

    def __init__(
        self,
        events: EventLog,
        every: int,
        facts: dict[str, Any],
        weights: LossWeights | None = None,
    ) -> None:
        self._events = events
        self._every = every
        self._facts = facts
        self._weights = weights
        self._mark = (0.0, 0)
        self._num_rows = 0

    def on_fit_start(self, state: RunState) -> None:
        self._events.write(
            "run_start",
            step=state.step,
            epoch=state.epoch,
            planned_steps=state.planned_steps,
            steps_per_epoch=state.steps_per_epoch,
            **self._facts,
        )
        self._mark = (time.perf_counter(), state.num_samples)
        self._num_rows = len(state.history)

    def on_step_end(self, state: RunState) -> None:
        if state.step % self._every and state.step != state.planned_steps:
            return
        then, samples = self._mark
        now = time.perf_counter()
        rate = (state.num_samples - samples) / max(now - then, 1e-9)
        self._mark = (now, state.num_samples)
        last = state.last
        self._events.write(
            "step",
            step=state.step,
            epoch=state.epoch,
            loss=last.loss if last else None,
            terms=last.terms if last and len(last.terms) > 1 else {},
            grad_norm=last.grad_norm if last else None,
            lr=state.lr,
            refused=state.skipped,
            samples_per_s=round(rate, 2),
            **self._weight_fields(last.terms if last else {}),
        )

    def _weight_fields(self, terms: Iterable[str]) -> dict[str, Any]:
        """Weights in force, once the terms are known and there is a choice of them."""
        names = list(terms)
        weights = self._weights
        if not names or weights is None or (len(names) < 2 and not weights.has_phases):
            return {}
        return {"weights": weights.effective(names)}

    def on_evaluate_end(self, state: RunState) -> None:
        self._events.write(
            "evaluate",
            step=state.step,
            epoch=state.epoch,
            split="val",
            metrics={f"val_{name}": value for name, value in state.metrics.items()},
        )
        self._mark = (time.perf_counter(), state.num_samples)

    def on_epoch_end(self, state: RunState) -> None:
        self._write_rows(state)

    def on_checkpoint(self, state: RunState) -> None:
        facts = {"step": state.step, **(state.checkpoint or {})}  # its step is earlier
        self._events.write("checkpoint", **facts)

    def _write_rows(self, state: RunState) -> None:
        for row in state.history[self._num_rows :]:
            self._events.write("epoch", **row)
        self._num_rows = len(state.history)

    def on_stop(self, state: RunState) -> None:
        self._write_rows(state)
        self._events.write("stop", step=state.step, reason=state.stop_reason)
