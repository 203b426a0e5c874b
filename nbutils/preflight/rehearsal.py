"""The run in miniature: the real session and loop, for a few windows, in a folder.

Nothing is shown, tracked or kept; the plan and its schedule are those of the run.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbutils.data.batch import batch_size
from nbutils.errors import ConfigError
from nbutils.monitor.events import EventLog
from nbutils.preflight.probe import Probe
from nbutils.train.activations import set_checkpointing
from nbutils.train.callback import Callback
from nbutils.train.evaluate import evaluate
from nbutils.train.notifier import Notifier
from nbutils.train.session import Session
from nbutils.train.state import RunState

__all__ = ["Rehearsal", "StepCounter", "rehearsing"]

Change = Callable[[int, list[Any]], None]

STOPPED_BY_USER = ("interrupt", "terminated")


class _EndAfter(Callback):
    """Ends the run after a number of windows."""

    def __init__(self, num_windows: int) -> None:
        self._num_windows = num_windows

    def on_step_end(self, state: RunState) -> None:
        if state.step >= self._num_windows:
            state.request_stop("the rehearsal is over")


@dataclass
class StepCounter:
    """The run's step, with a look at the windows that it is given.

    Args:
        step: The run's own.
        num_targets: Of a batch.
        change: Gets the number of each window, from 1, and its batches to change.
    """

    step: Any
    num_targets: Callable[[Any], int]
    change: Change | None = None
    num_windows: int = 0
    num_batches: int = 0
    num_samples: int = 0

    def __call__(self, window: list[Any]) -> Any:
        self.num_windows += 1
        if self.change is not None:
            self.change(self.num_windows, window)
        self.num_batches += sum(self.num_targets(batch) > 0 for batch in window)
        self.num_samples += sum(map(batch_size, window))
        return self.step(window)


class Rehearsal:
    """Sessions of one task in one temporary folder.

    Args:
        probe: The task under test.
        folder: Where everything is written.
        events: The log, in that folder.
        **settings: Changes of the configuration.
    """

    def __init__(
        self, probe: Probe, folder: Path, events: EventLog, **settings: Any
    ) -> None:
        self.folder = folder
        self.config = probe.config.replace(
            num_workers=0, max_hours=None, patience=None, target=None, **settings
        )
        self._probe = probe
        self._events = events

    def session(self) -> Session:
        """A new session on the model as it was found, seeded as the run will be."""
        self._probe.rewind()
        twin = copy.copy(self._probe.task)
        twin.model = self._as_configured(self._probe.model)
        device = self._probe.device
        return Session(twin, self.config, device, self.folder, self._events)

    def fit(
        self,
        session: Session,
        num_windows: int,
        *watchers: Callback,
        change: Change | None = None,
        evaluate: Callable[[], dict[str, Any]] | None = None,
    ) -> StepCounter:
        """Train until ``num_windows`` are done in all, or the plan is fulfilled.

        Evaluation sees one batch: its numbers matter for plateaus, not its length.

        Args:
            session: Its parts.
            num_windows: Where it ends.
            *watchers: Callbacks; those of the rehearsal come after them.
            change: Changes a window before its step; see :class:`StepCounter`.
            evaluate: In place of that evaluation.

        Raises:
            KeyboardInterrupt: The user stopped it; the loop had taken the signal.
        """
        loop = session.loop(Notifier([*watchers, _EndAfter(num_windows)]))
        counter = StepCounter(loop.step, session.task.num_targets, change)
        loop.step = counter  # type: ignore[assignment]
        if loop.evaluate is not None:
            loop.evaluate = evaluate or (lambda: self._evaluated(session))
        try:
            loop.fit(session.state)
        finally:
            session.close()
        if session.state.stop_reason in STOPPED_BY_USER:
            raise KeyboardInterrupt
        return counter

    def _as_configured(self, model: nn.Module) -> nn.Module:
        """Laid out and recomputed as in the run; compiling would take too long."""
        options = self.config.model
        if options.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.gradient_checkpointing:
            with suppress(ConfigError):  # nothing to recompute: R14 tells so
                set_checkpointing(model, options)
        return model

    def _evaluated(self, session: Session) -> dict[str, Any]:
        batch = copy.deepcopy(self._probe.data.batch("val"))
        with session.averaged():
            return evaluate(
                session.task,
                [batch],
                session.precision,
                session.device,
                loss_weights=self.config.loss.loss_weights,
                seed=self._probe.seed,
            )


@contextmanager
def rehearsing(probe: Probe, **settings: Any) -> Iterator[Rehearsal]:
    """A rehearsal in a temporary folder, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="nbutils-rehearsal-") as name:
        folder = Path(name)
        with EventLog(folder / "events.jsonl") as events:
            yield Rehearsal(probe, folder, events, **settings)
