"""What all watchers share: the parts of the run they look at, and a cadence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.optim import Optimizer

from nbutils.data.task import Task
from nbutils.errors import ConfigError
from nbutils.monitor.events import EventLog
from nbutils.train.callback import Callback
from nbutils.train.ema import Ema
from nbutils.train.precision import Precision
from nbutils.train.watchers.taps import Taps

__all__ = ["GAP_S", "NEVER", "Cadence", "Parts", "Watcher"]

NEVER = 2**62
GAP_S = 2.0
"""Seconds between two looks that nobody asked to be closer."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a watcher may look at; it changes none of it."""

    task: Task
    config: Any
    device: torch.device
    optimizer: Optimizer
    precision: Precision
    ema: Ema | None
    events: EventLog
    taps: Taps

    @classmethod
    def of(cls, session: Any) -> Parts:
        """Those of a session."""
        return cls(**{item.name: getattr(session, item.name) for item in fields(cls)})


class Watcher(Callback):
    """A callback that sees the parts of the run and writes into its event log.

    One that is passed in ``callbacks`` takes the place of the default of its class.

    Attributes:
        wake: ``on_step_end`` has nothing to do before this step. Defaults are not
            called before it; others are called after each step.
    """

    wake = 0
    _parts: Parts | None = None

    @property
    def parts(self) -> Parts:
        """The parts of the run.

        Raises:
            ConfigError: No run has attached this watcher.
        """
        if self._parts is None:
            raise ConfigError(
                [
                    f"{type(self).__name__} is not attached to a run; expected one of "
                    "TrainingCoordinator(callbacks=[...]), which attaches it."
                ]
            )
        return self._parts

    def attach(self, parts: Parts) -> None:
        """Take the parts of a run that is about to start; extend it, calling super."""
        self._parts = parts

    def close(self) -> None:
        """End what goes on beside the loop; called on every way out of a run."""

    def write(self, step: int, values: Mapping[str, float], **fields: Any) -> None:
        """Write a ``monitor`` event, if there is a value at all."""
        if values:
            event = {"step": step, "values": dict(values), **fields}
            self.parts.events.write("monitor", **event)


class Cadence:
    """Which steps are looked at.

    Args:
        every_steps: Every so many, exactly; none: the logged ones, with at least two
            seconds between them.
        clock: Seconds that only grow.

    Raises:
        ConfigError: ``every_steps`` is below 1.
    """

    def __init__(
        self, every_steps: int | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        if every_steps is not None and every_steps < 1:
            raise ConfigError(
                [f"every_steps is {every_steps}; it must be >= 1, or left out."]
            )
        self.every = every_steps or 1
        self._is_exact = every_steps is not None
        self._clock = clock
        self._next_s = 0.0

    def after(self, step: int, planned: int | None) -> int:
        """The next step that may be due."""
        following = (step // self.every + 1) * self.every
        return (
            following if planned is None or planned <= step else min(following, planned)
        )

    def bind(self, config: Any) -> None:
        """Begin a run with this config."""
        self._next_s = 0.0
        if not self._is_exact:
            self.every = config.display.log_every_steps

    def is_due(self, step: int, planned: int | None) -> bool:
        """Whether to look at ``step``; the last planned one always is."""
        if step == planned:
            return True
        if step % self.every:
            return False
        if self._is_exact:
            return True
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + GAP_S
        return True
