"""The loop: it states the protocol and nothing else.

The order of a run, hooks included::

    on_fit_start
    for each epoch:
        on_epoch_start
        for each window:
            step, on_step_end
        evaluate, on_evaluate_end
        on_epoch_end
    on_stop
    on_fit_end, on every way out, once
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbutils.errors import ContractError
from nbutils.train.guard import SkipBudget
from nbutils.train.notifier import Notifier
from nbutils.train.plan import Plan, align
from nbutils.train.progress import judge_evaluation
from nbutils.train.readback import Readback
from nbutils.train.schedule import Schedule
from nbutils.train.state import Reading, RunState
from nbutils.train.step import TrainStep
from nbutils.train.stop import StopWatch
from nbutils.train.windows import windows

__all__ = ["Loop"]


@dataclass
class Loop:
    """Everything a run moves, wired; :meth:`fit` moves it.

    Attributes:
        evaluate: Metrics of the validation data; none without such data.
        save_refused: Keeps a refused window's batches and says where.
    """

    step: TrainStep
    loader: Any
    schedule: Schedule
    plan: Plan
    train: Any
    budget: SkipBudget
    readback: Readback
    watch: StopWatch
    notify: Notifier
    evaluate: Callable[[], dict[str, Any]] | None
    save_refused: Callable[[Reading, int, list[Any]], Path | None]

    def fit(self, state: RunState) -> None:
        """Train until the plan is fulfilled or someone asks for the end."""
        state.planned_steps = self.plan.steps
        state.steps_per_epoch = self.plan.steps_per_epoch
        state.lr = self.schedule.lr()
        with self.watch.listening(state):
            try:
                self.notify("on_fit_start", state)
                while not self._is_over(state):
                    self._epoch(state)
                self.notify("on_stop", state)
            finally:
                self.notify.finish(state)

    def _is_over(self, state: RunState) -> bool:
        epochs = self.plan.epochs
        epochs_done = epochs is not None and state.epoch >= epochs
        if state.is_evaluated and (epochs_done or self._is_plan_done(state)):
            state.end("completed")
        return state.stop_reason is not None

    def _epoch(self, state: RunState) -> None:
        align(self.loader, state)
        self.loader.set_position(state.epoch, state.batch)
        self.notify("on_epoch_start", state)
        started = time.monotonic() - state.epoch_seconds
        state.is_evaluated = False
        self._windows(state)
        state.epoch_seconds = time.monotonic() - started
        is_pass_over = self._is_pass_over(state)
        if state.stop_reason is not None and not is_pass_over:
            return  # a pass cut short is not an epoch; an exact finish is one
        if not state.batch:
            raise ContractError(
                "the training data gave no batch in this epoch; expected at least 1. "
                "Check its length, drop_last, and that an iterable starts anew."
            )
        self._close_epoch(state, is_whole=is_pass_over or not self._is_plan_done(state))

    def _windows(self, state: RunState) -> None:
        """Step through the rest of the pass, unless the plan or a stop ends it."""
        if self._is_plan_done(state):
            return
        for window in windows(self.loader, self.train.accumulation):
            self.watch.poll(state)
            if state.stop_reason is not None:
                break
            state.lr = self.schedule.lr()
            outcome = self.step(window)
            state.step += 1
            state.batch += len(window)
            state.num_samples += outcome.num_samples
            self.readback.push(state.step, outcome, (state.batch - len(window), window))
            self._read(state)  # before the schedule moves: it waits on a refusal
            self.schedule.advance()
            self.notify("on_step_end", state)
            if self._is_plan_done(state):
                break
        self._read(state, wait=True)
        self.watch.poll(state)

    def _is_plan_done(self, state: RunState) -> bool:
        return self.plan.limit is not None and state.step >= self.plan.limit

    def _is_pass_over(self, state: RunState) -> bool:
        total = self.loader.num_batches
        return total is not None and state.batch >= total

    def _read(self, state: RunState, *, wait: bool = False) -> None:
        for reading, (first_batch, window) in self.readback.ready(wait=wait):
            state.record(reading)
            saved = None
            if reading.is_refused:
                self.schedule.hold()
                saved = self.save_refused(reading, first_batch, window)
            scale = self.step.precision.scale
            value = scale.value.item() if scale and reading.is_refused else None
            self.budget.observe(reading, state, value, saved)

    def _close_epoch(self, state: RunState, *, is_whole: bool) -> None:
        """Evaluate and record; count the pass unless ``max_steps`` cut it short."""
        state.metrics = self.evaluate() if self.evaluate is not None else {}
        state.history.append(self._row(state))
        if is_whole:
            state.epoch += 1
            state.start_epoch()
        value = judge_evaluation(state, self.train, state.history[-1])
        if value is not None:
            self.schedule.observe(value)
        state.is_evaluated = True
        if state.metrics:
            self.notify("on_evaluate_end", state)
        if is_whole:
            self.notify("on_epoch_end", state)

    def _row(self, state: RunState) -> dict[str, Any]:
        numbers = {
            n: v for n, v in state.metrics.items() if isinstance(v, (int, float))
        }
        return {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.train_loss(),
            **{f"val_{name}": float(value) for name, value in numbers.items()},
            "lr": state.lr,
            "refused": state.epoch_skipped,
            "seconds": round(state.epoch_seconds, 3),
        }
