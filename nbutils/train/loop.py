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
from typing import Any

from nbutils.errors import ContractError, NonFiniteStepError
from nbutils.train.guard import Evidence, SkipBudget
from nbutils.train.landing import Landing
from nbutils.train.loss_weights import LossWeights
from nbutils.train.notifier import Notifier
from nbutils.train.plan import Plan, align, broken_promise
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
        save_refused: Keeps what there is to know of a refused window; it gets the
            reading, the number of its first batch, the batches, the loss scale.
        rollback: Goes back once the budget is spent, or raises.
        phases: Loss weights that change over the run; none if they do not.
        landing: Shortens the plan when the time limit would cut it off.
        tell: Told what does not go as planned.
        is_stepping: Within a window: weights, schedule and counters may disagree.
        has_ended: The loader has no more batches in this pass.
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
    save_refused: Callable[[Reading, int, list[Any], float | None], Evidence]
    rollback: Callable[[RunState, str], None]
    phases: LossWeights | None = None
    landing: Landing | None = None
    tell: Callable[[str], None] = print
    is_stepping: bool = False
    has_ended: bool = False

    def fit(self, state: RunState) -> None:
        """Train until the plan is fulfilled or someone asks for the end."""
        if self.landing is not None:
            self.plan = self.landing.plan
        state.planned_steps = self.plan.steps
        state.steps_per_epoch = self.plan.steps_per_epoch
        if not state.step:  # else it is that of the last step, as it was saved
            state.lr = self.schedule.lr()
        with self.watch.listening(state):
            try:
                self.notify("on_fit_start", state)
                while not self._is_over(state):
                    self._epoch(state)
                self.notify("on_stop", state)
            finally:
                self.notify.finish(state)

    def can_be_saved(self, error: Exception) -> bool:
        """Whether the run stands between two windows, so that a resume loses nothing.

        A refused update and a window that does not fit into memory leave all as it was.
        """
        is_undone = isinstance(error, NonFiniteStepError) or getattr(
            error, "is_undone", False
        )
        return is_undone or not self.is_stepping

    def settle(self, state: RunState) -> None:
        """Wait for what is on its way from the device: a snapshot is to hold it."""
        self._read(state, wait=True)

    def _is_over(self, state: RunState) -> bool:
        epochs = self.plan.epochs
        epochs_done = epochs is not None and state.epoch >= epochs
        if state.is_evaluated and (epochs_done or self._is_plan_done(state)):
            is_landed = self.landing is not None and self.landing.is_short
            state.end("time" if is_landed and not epochs_done else "completed")
        return state.stop_reason is not None

    def _epoch(self, state: RunState) -> None:
        if changed := align(self.loader, state):
            self.tell(changed)
        self.loader.set_position(state.epoch, state.batch)
        self.notify("on_epoch_start", state)
        started = time.monotonic() - state.epoch_seconds
        state.is_evaluated = False
        self._windows(state)
        state.epoch_seconds = time.monotonic() - started
        is_pass_over = self._is_pass_over(state)
        if self.landing is not None and self.landing.has_no_time(state):
            state.end("time")
        if state.stop_reason is not None and not is_pass_over:
            return  # a pass cut short is not an epoch; an exact finish is one
        if not state.batch:
            raise ContractError(
                "the training data gave no batch in this epoch; expected at least 1. "
                "Check its length, drop_last, and that an iterable starts anew."
            )
        if self.has_ended and (broken := broken_promise(self.loader, state)):
            self.tell(broken)
        started = time.monotonic()
        self._close_epoch(state, is_whole=is_pass_over or not self._is_plan_done(state))
        if self.landing is not None:
            self.landing.pause(time.monotonic() - started)

    def _windows(self, state: RunState) -> None:
        """Step through the rest of the pass, unless the plan or a stop ends it."""
        self.has_ended = False
        if self._is_plan_done(state):
            return
        for window in windows(self.loader, self.train.accumulation):
            self.watch.poll(state)
            if state.stop_reason is not None:
                break
            state.lr = self.schedule.lr()
            if self.phases is not None:
                self.phases.move(state.step)
            self.is_stepping = True
            outcome = self.step(window)
            state.step += 1
            state.batch += len(window)
            state.num_samples += outcome.num_samples
            self.readback.push(state.step, outcome, (state.batch - len(window), window))
            self._read(state)  # before the schedule moves: it waits on a refusal
            self.schedule.advance()
            if self.landing is not None and state.step >= self.landing.due:
                self.plan = self.landing.look(state)
            self.is_stepping = False
            self.notify("on_step_end", state)
            if self._is_plan_done(state):
                break
        else:
            self.has_ended = True
        self._read(state, wait=True)
        self.watch.poll(state)

    def _is_plan_done(self, state: RunState) -> bool:
        return self.plan.limit is not None and state.step >= self.plan.limit

    def _is_pass_over(self, state: RunState) -> bool:
        if not self.loader.is_counted:
            return self.has_ended
        return state.batch >= self.loader.num_batches

    def _read(self, state: RunState, *, wait: bool = False) -> None:
        for reading, (first_batch, window) in self.readback.ready(wait=wait):
            state.record(reading)
            scale, evidence = reading.scale, None
            if reading.is_refused:
                self.schedule.hold()
                evidence = self.save_refused(reading, first_batch, window, scale)
            reason = self.budget.observe(reading, state, scale, evidence)
            if reason is not None:
                self.rollback(state, reason)
                self.budget.forgive(state)

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
        weights = self.phases.current if self.phases is not None else {}
        return {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.train_loss(),
            **{f"val_{name}": float(value) for name, value in numbers.items()},
            **{f"weight_{name}": value for name, value in weights.items()},
            "lr": state.lr,
            "refused": state.epoch_skipped,
            "seconds": round(state.epoch_seconds, 3),
        }
