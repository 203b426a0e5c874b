"""Feeds the watchdogs from the loop's hooks, and says once what they find."""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nbutils.data.task import Task
from nbutils.environment.limits import available_memory_bytes, memory_limit_bytes
from nbutils.monitor.events import EventLog
from nbutils.monitor.watchdogs.alarm import Alarm, Pass, Stretch
from nbutils.monitor.watchdogs.baseline import BaselineWatchdog
from nbutils.monitor.watchdogs.checkpoints import CheckpointWatchdog
from nbutils.monitor.watchdogs.frozen import FrozenWatchdog
from nbutils.monitor.watchdogs.gradients import GradientWatchdog
from nbutils.monitor.watchdogs.limits import LimitWatchdog
from nbutils.monitor.watchdogs.nonfinite import NonFiniteWatchdog
from nbutils.monitor.watchdogs.overfit import OverfitWatchdog
from nbutils.monitor.watchdogs.pace import PaceWatchdog
from nbutils.monitor.watchdogs.skips import SkipRateWatchdog
from nbutils.monitor.watchdogs.statistics import median
from nbutils.train.callback import Callback
from nbutils.train.levels import trivial_levels
from nbutils.train.precision import Precision
from nbutils.train.probe import WeightProbe
from nbutils.train.state import RunState

__all__ = ["Watchdogs"]

LOOK_S = 30.0
MAX_STEPS = 512
MIN_STEPS = 20
MIN_GAP_S = 2.0
SETTLING_SKIPS = 24  # halvings of a loss scale that finds its value


class Watchdogs(Callback):
    """W1 to W9. Steps are collected, and looked at each 30 s and after each pass.

    Args:
        config: Its guard section says whether serious alarms stop the run.
        task: What is trained; its targets tell what a constant answer reaches.
        optimizer: Whose parameters should move.
        precision: Its loss scale is watched.
        events: Told of each alarm, once per cause.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        config: Any,
        task: Task,
        optimizer: Any,
        precision: Precision,
        events: EventLog,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._events = events
        self._clock = clock
        self._task = task
        self._optimizer = optimizer
        self._scale = precision.scale
        self._stops = config.guard.watchdogs == "stop"
        self._warmup = config.schedule.warmup_steps
        saving = config.checkpoint
        self._frozen = FrozenWatchdog()
        self._nonfinite = NonFiniteWatchdog()
        self._skips = SkipRateWatchdog(config.guard.max_refused_fraction)
        self._baseline = BaselineWatchdog([])
        self._gradients = GradientWatchdog()
        self._pace = PaceWatchdog()
        self._overfit = OverfitWatchdog()
        self._limits = LimitWatchdog(config.train.max_hours)
        self._checkpoints = CheckpointWatchdog(
            saving.save_every_steps, saving.save_every_minutes
        )
        self._told: set[tuple[str, str]] = set()
        self._settling = SETTLING_SKIPS if self._scale is not None else 0
        self._last_loss = math.nan
        self._seen: Any = None
        self._clear(0.0)

    def on_fit_start(self, state: RunState) -> None:
        assert state.model is not None  # noqa: S101 (set by the session)
        self._probe = WeightProbe(state.model, self._optimizer)
        self._baseline = BaselineWatchdog(trivial_levels(self._task))
        self._skipped, self._saved_step = state.skipped, state.step
        now = self._clock()
        self._saved_at = now
        self._due = self._looked = now
        self._clear(now)

    def on_step_end(self, state: RunState) -> None:
        now = self._clock()
        self._times.append(now - self._mark)
        self._mark = now
        last = state.last
        if last is not self._seen and last is not None:
            self._seen = last
            if not last.is_refused:
                self._losses.append(last.loss)
                self._norms.append(last.grad_norm)
        if len(self._times) >= MAX_STEPS or now - self._begun >= LOOK_S:
            self.tell(state, self._look(state))

    def on_evaluate_end(self, state: RunState) -> None:
        self.tell(state, self._nonfinite.observe_metrics(state.metrics))
        self.tell(state, self._judge_pass(state))

    def on_epoch_end(self, state: RunState) -> None:
        if not state.metrics:
            self.tell(state, self._judge_pass(state))
        self._mark = self._clock()

    def on_checkpoint(self, state: RunState) -> None:
        self._saved_at, self._saved_step = self._clock(), state.step
        self._mark = self._saved_at

    def _judge_pass(self, state: RunState) -> Iterator[Alarm]:
        row = state.history[-1]
        done = Pass(
            epoch=int(row["epoch"]),
            num_updates=state.step - state.skipped,
            train_loss=float(row["train_loss"]),
            val_loss=row.get("val_loss"),
            lr=state.lr,
            movement=self._probe.movement(),
            num_misses=state.num_misses,
            is_warming_up=state.step < self._warmup,
        )
        zero = [loss for loss in self._losses if loss]
        self._last_loss = zero[-1] if zero else self._last_loss
        yield from self._frozen.observe(done, self._last_loss)
        yield from self._baseline.observe(done)
        yield from self._overfit.observe(done)
        yield from self._nonfinite.observe_weights(self._probe.nonfinite_names())
        if len(self._times) >= MIN_STEPS:
            yield from self._look(state)

    def _look(self, state: RunState) -> Iterator[Alarm]:
        """Judge the steps since the last look, and now and then the machine."""
        now = self._clock()
        num_refused = state.skipped - self._skipped
        settling = min(num_refused, self._settling)
        self._settling -= settling
        stretch = Stretch(
            num_steps=len(self._times),
            num_refused=num_refused - settling,
            seconds=now - self._begun,
            seconds_per_step=median(self._times),
            losses=self._losses,
            grad_norms=self._norms,
            scale=None if self._seen is None else self._seen.scale,
        )
        self._skipped = state.skipped
        zero = [loss for loss in self._losses if loss]
        self._last_loss = zero[-1] if zero else self._last_loss
        self._clear(now)
        yield from self._skips.observe(stretch)
        yield from self._gradients.observe(stretch)
        yield from self._pace.observe(stretch)
        if now >= self._due:
            self._due = now + MIN_GAP_S
            yield from self._look_at_machine(state)

    def _look_at_machine(self, state: RunState) -> Iterator[Alarm]:
        saved = state.checkpoint or {}
        free = shutil.disk_usage(state.run_dir or ".").free
        yield from self._limits.observe_disk(free, int(saved.get("bytes") or 0))
        yield from self._limits.observe_memory(
            available_memory_bytes(), memory_limit_bytes()
        )
        yield from self._limits.observe_time(
            state.seconds, state.step, state.planned_steps
        )
        yield from self._pace.observe_swap(_swap_bytes())
        yield from self._checkpoints.observe(
            state.step - self._saved_step, self._clock() - self._saved_at
        )

    def tell(self, state: RunState, alarms: Iterable[Alarm]) -> None:
        """Write each alarm whose cause is new, and stop the run where it should."""
        for alarm in alarms:
            key = (alarm.id, alarm.cause)
            if key in self._told:
                continue
            self._told.add(key)
            text = f"{alarm.id}: {alarm.text}"
            state.alarms.append(text)
            self._events.write(
                "watchdog",
                id=alarm.id,
                severity="serious" if alarm.is_serious else "warning",
                step=state.step,
                epoch=state.epoch,
                text=alarm.text,
            )
            if self._stops and alarm.is_serious and not _is_done(state):
                state.request_stop(text)

    def _clear(self, now: float) -> None:
        self._times: list[float] = []
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._mark = self._begun = now


def _is_done(state: RunState) -> bool:
    return state.planned_steps is not None and state.step >= state.planned_steps


def _swap_bytes() -> int:
    import psutil

    with warnings.catch_warnings():  # a container may not tell; then it is 0
        warnings.simplefilter("ignore", RuntimeWarning)
        return int(psutil.swap_memory().used)
