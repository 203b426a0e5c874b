"""How fast the run goes: samples, tokens, floating-point operations, waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from nbutils.monitor.peaks import peak_flops_per_s
from nbutils.train.state import RunState
from nbutils.train.step import StepOutcome
from nbutils.train.watchers.flops import FlopCount, can_count
from nbutils.train.watchers.taps import Step
from nbutils.train.watchers.tokens import count_tokens, has_tokens
from nbutils.train.watchers.watcher import Cadence, Parts, Watcher

__all__ = ["ThroughputMonitor"]

MAX_TRIES = 3


class ThroughputMonitor(Watcher):
    """Rates since the last value, or since the pass began; evaluations are left out.

    Writes ``throughput/samples_per_s``; ``throughput/tokens_per_s`` where batches hold
    token ids; ``throughput/flops_per_s`` where operations can be counted, and
    ``throughput/mfu``, its share of what the card computes at most, where that is
    known; ``loader/wait_fraction``, the share of time that the loop waited for data.

    Operations are counted once, while the second step of a process runs, and taken to
    be the same for each sample: forward and backward of matrix products, convolutions
    and attention, as executed. Not counted are compiled models and those with work
    that torch has no formula for. What is recomputed under gradient checkpointing
    counts as executed, so there is no MFU (Chowdhery et al. 2022, "PaLM", appendix B).

    Args:
        every_steps: Look at each so many steps; by default at logged ones, at most
            once in two seconds.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        every_steps: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._cadence = Cadence(every_steps, clock)
        self._reset()

    def _reset(self) -> None:
        self._flops_per_sample: float | None = None
        self._peak: float | None = None
        self._tries = 0
        self.wake = 0
        self._is_first = True
        self._tokens: int | None = None
        self._mark = (0.0, 0, 0.0, 0)

    def attach(self, parts: Parts) -> None:
        super().attach(parts)
        self._cadence.bind(parts.config)
        self._reset()
        self._peak = _peak(parts)
        parts.taps.feed.on_batch = self._look_at_batch
        parts.taps.step.run_next(self._first_step)

    def on_fit_start(self, state: RunState) -> None:
        self.wake = self._cadence.after(state.step, state.planned_steps)

    def on_epoch_start(self, state: RunState) -> None:
        self._set_mark(state.num_samples)

    def on_step_end(self, state: RunState) -> None:
        if state.step < self.wake:
            return
        self.wake = self._cadence.after(state.step, state.planned_steps)
        if self._cadence.is_due(state.step, state.planned_steps):
            self._write(state)

    def _write(self, state: RunState) -> None:
        then, samples, waited_s, tokens = self._mark
        elapsed_s = self._clock() - then
        done = state.num_samples - samples
        feed = self.parts.taps.feed
        if done > 0 and elapsed_s > 0:
            rate = done / elapsed_s
            values = {"throughput/samples_per_s": rate}
            if self._tokens is not None:
                values["throughput/tokens_per_s"] = (self._tokens - tokens) / elapsed_s
            if self._flops_per_sample:
                values["throughput/flops_per_s"] = rate * self._flops_per_sample
                if self._peak is not None:
                    share = rate * self._flops_per_sample / self._peak
                    values["throughput/mfu"] = share
            share = (feed.waited_s - waited_s) / elapsed_s
            values["loader/wait_fraction"] = min(max(share, 0.0), 1.0)
            self.write(state.step, values)
        self._set_mark(state.num_samples)

    def _set_mark(self, num_samples: int) -> None:
        waited_s = self.parts.taps.feed.waited_s
        self._mark = (self._clock(), num_samples, waited_s, self._tokens or 0)

    def _look_at_batch(self, batch: Any) -> None:
        """Of the first batch: are there tokens? Then count them, batch by batch."""
        is_first, self._is_first = self._is_first, False
        if is_first:
            if not has_tokens(self.parts.task.model, batch):
                self.parts.taps.feed.on_batch = None
                return
            self._tokens = 0
        found = count_tokens(batch)
        if found is None or self._tokens is None:
            self._tokens, self.parts.taps.feed.on_batch = None, None
            return
        self._tokens += found

    def _first_step(self, step: Step, window: list[Any]) -> StepOutcome:
        """Start-up is in it: rates begin after it."""
        outcome = step(window)
        if can_count(self.parts.task):
            self.parts.taps.step.run_next(self._counted_step)
        self._skip(outcome)
        return outcome

    def _counted_step(self, step: Step, window: list[Any]) -> StepOutcome:
        self._tries += 1
        with FlopCount() as count:
            outcome = step(window)
        if count.is_whole and outcome.num_samples:
            self._flops_per_sample = count.flops / outcome.num_samples
        elif count.had_error and self._tries < MAX_TRIES:
            self.parts.taps.step.run_next(self._counted_step)  # memory ran out in it
        self._skip(outcome)
        return outcome

    def _skip(self, outcome: StepOutcome) -> None:
        """Leave this step out of the rates."""
        self._set_mark(self._mark[1] + outcome.num_samples)


def _peak(parts: Parts) -> float | None:
    """What the device computes at most, where MFU has a meaning."""
    if parts.device.type != "cuda" or parts.config.model.gradient_checkpointing:
        return None
    name = torch.cuda.get_device_name(parts.device)
    return peak_flops_per_s(name, parts.precision.kind)
