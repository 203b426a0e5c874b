"""Gradients and updates, module by module."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch import Tensor

from nbutils.errors import ConfigError
from nbutils.train.memory_errors import is_out_of_memory
from nbutils.train.state import RunState
from nbutils.train.watchers.modules import label_parameters
from nbutils.train.watchers.updates import UpdateProbe
from nbutils.train.watchers.watcher import NEVER, Parts, Watcher

__all__ = ["GradientMonitor"]

MAX_SHARE = 0.005  # of the time of the steps in between
FIRST_STEP = 10


class GradientMonitor(Watcher):
    """Writes ``gradients/norm gradients/share/<module> updates/ratio/<module>``.

    ``norm`` is that of all gradients as the step reports it, before clipping by norm.
    ``share`` is a module's part of the squared norm, before any clipping; shares sum
    to 1. ``ratio`` is the norm of the update over that of the weights before it; about
    1e-3 is usual, 1e-1 too much. A refused update is not written. On an accelerator
    nothing waits: the numbers are read once a later step's loss has arrived.

    A measurement takes about as long as an update. It comes early in a run, then every
    so many steps, and less often where it would take more than 0.5 % of the time.

    Args:
        every_steps: Steps between two measurements, at least.
        clock: Seconds that only grow.

    Raises:
        ConfigError: ``every_steps`` is below 1.
    """

    def __init__(
        self, every_steps: int = 200, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        if every_steps < 1:
            raise ConfigError([f"every_steps is {every_steps}; it must be >= 1."])
        self._every = every_steps
        self._clock = clock
        self._probe: UpdateProbe | None = None
        self._reset()

    def _reset(self) -> None:
        self.wake = 0
        self._due = 0
        self._measured: int | None = None  # a step whose numbers are on their way
        self._has_row = False
        self._began_s = self._cost_s = 0.0
        self._step_s = math.inf

    def attach(self, parts: Parts) -> None:
        super().attach(parts)
        labelled = label_parameters(parts.task.model, parts.task.loss, parts.optimizer)
        self._probe = UpdateProbe(labelled)
        self._reset()

    @property
    def cost_s(self) -> float:
        """Seconds that the last measurement took of this thread."""
        return self._cost_s

    def close(self) -> None:
        self._probe = None

    def on_fit_start(self, state: RunState) -> None:
        self._due = self._next_multiple(state.step + 1)
        if state.step < FIRST_STEP:
            self._due = min(self._due, FIRST_STEP)
        self._look_ahead(state)

    def on_step_end(self, state: RunState) -> None:
        if state.step >= self.wake:
            self._settle(state)
            self._look_ahead(state)

    def on_epoch_end(self, state: RunState) -> None:
        self._settle(state)

    def on_stop(self, state: RunState) -> None:
        self._settle(state)

    def before_update(self) -> None:
        """Start a measurement, if there is memory for it."""
        started_s = self._clock()
        self._has_row = False
        if self._probe is None:
            return
        try:
            self._probe.begin()
        except Exception as error:
            self._give_up(error)
        self._cost_s = self._clock() - started_s

    def after_update(self, norm: Tensor, refused: Tensor) -> None:
        """End it; the numbers may still be on their way."""
        started_s = self._clock()
        if self._probe is None:
            return
        try:
            self._probe.end(norm, refused)
            self._has_row = True
        except Exception as error:
            self._give_up(error)
        self._cost_s += self._clock() - started_s

    def _give_up(self, error: Exception) -> None:
        """Without memory to spare the run goes on, and is not measured any more."""
        if not is_out_of_memory(error):
            raise error
        self._probe = None
        text = (
            "out of memory while gradients and updates were measured; the step is "
            "unharmed, and they are not measured any more. To have them, lower "
            "batch_size."
        )
        self.parts.events.write("message", level="warning", text=text)

    def _look_ahead(self, state: RunState) -> None:
        """Ask for the next update if it is due; say when to look again."""
        if self._probe is None:
            self.wake = NEVER
        elif self._measured is not None:
            self.wake = 0
        elif state.step + 1 >= self._due:
            self.parts.taps.update.watch_next(self)
            self._began_s = self._clock()
            self._measured = state.step + 1
            self.wake = 0
        else:
            self.wake = self._due - 1

    def _settle(self, state: RunState) -> None:
        """Write what was measured, once it has arrived."""
        step, last = self._measured, state.last
        if step is None or self._probe is None:
            return
        if state.step == step:
            step_s = self._clock() - self._began_s - self._cost_s
            self._step_s = min(self._step_s, max(step_s, 1e-6))
        if not self._has_row or last is None or last.step < step:
            return
        reading = self._probe.read()
        self._measured, self._has_row = None, False
        spacing = math.ceil(self._cost_s / (MAX_SHARE * self._step_s))
        if reading.is_refused:
            self._due = state.step + max(spacing, 1)
            return
        self._due = self._next_multiple(step + max(spacing, 1))
        shares = {f"gradients/share/{n}": v for n, v in reading.shares.items()}
        ratios = {f"updates/ratio/{n}": v for n, v in reading.ratios.items()}
        self.write(step, {"gradients/norm": reading.norm, **shares, **ratios})

    def _next_multiple(self, step: int) -> int:
        return -(-step // self._every) * self._every
