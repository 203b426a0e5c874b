"""Saves a run: decides when, has it published, and tells everyone in the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from nbutils.checkpoint.cadence import Cadence
from nbutils.checkpoint.plain import refuse_extra_state
from nbutils.checkpoint.publisher import Publisher, SecondTier
from nbutils.checkpoint.store import CheckpointStore
from nbutils.checkpoint.writer import BackgroundWriter
from nbutils.errors import CheckpointError
from nbutils.train.callback import Callback

__all__ = ["CheckpointCallback"]


class CheckpointCallback(Callback):
    """Saves the run; must be attached last, so that it saves what others did.

    Args:
        store: Where checkpoints go.
        section: The config's checkpoint section.
        model: The model, and
        parts: everything else with a ``state_dict``.
        writer: Writes in the background; none: saves are written in the loop.
        second_tier: Gets each published checkpoint.
        is_epochs_asked: ``save_every_epochs`` is no mere default.

    Attributes:
        notify: Fires ``on_checkpoint``; set once the notifier exists.
        settle: Waits for results that are on their way from the device.
        drain: To be attached first: finishes what was accepted on every way out.
    """

    def __init__(
        self,
        store: CheckpointStore,
        section: Any,
        model: nn.Module,
        parts: Mapping[str, Any],
        *,
        writer: BackgroundWriter | None = None,
        second_tier: SecondTier | None = None,
        is_epochs_asked: bool = True,
    ) -> None:
        self._store = store
        self._model = model
        self._publisher = Publisher(store, model, parts, writer, second_tier)
        self._news = self._publisher.news
        self._cadence = Cadence(section, is_epochs_asked=is_epochs_asked)
        self.notify: Callable[[str, Any], None] = _tell_nobody
        self.settle: Callable[[Any], None] = _settle_nothing
        self.drain = _Drain(self)
        self._saved = (-1, -1)
        self._is_prepared = False

    @classmethod
    def of(
        cls,
        config: Any,
        store: CheckpointStore,
        model: nn.Module,
        parts: Mapping[str, Any],
        second_tier: SecondTier | None = None,
    ) -> CheckpointCallback:
        """The saver that a run's config asks for."""
        section = config.checkpoint
        return cls(
            store,
            section,
            model,
            parts,
            writer=BackgroundWriter() if section.save_in_background else None,
            second_tier=second_tier,
            is_epochs_asked=config.origin("save_every_epochs") != "default",
        )

    def on_fit_start(self, state: Any) -> None:
        refuse_extra_state(self._model)  # now, not at the end of the first epoch
        self._saved = (state.step, len(state.history))
        self._cadence.start(time.monotonic(), num_kept=len(self._store.steps()))

    def on_step_end(self, state: Any) -> None:
        if self._news:
            self._deliver(state)
        if not self._is_prepared:
            self._is_prepared = True
            self._cadence.estimate(self._publisher.prepare())
        if self._cadence.is_due(state.step, time.monotonic()) and not (
            # one that nobody asked for does not queue behind another
            self._cadence.is_automatic and self._publisher.is_busy
        ):
            self.save(state)

    def on_epoch_end(self, state: Any) -> None:
        self._deliver(state)
        is_due = self._cadence.is_due_at_epoch(
            state.epoch, time.monotonic(), is_new_best=state.is_new_best
        )
        is_last = state.stop_reason is not None or state.step == state.planned_steps
        if is_due or is_last:
            self.save(state, waits=is_last)

    def on_stop(self, state: Any) -> None:
        if self._saved != (state.step, len(state.history)):
            self.save(state)
        self.finish(state)

    def save(self, state: Any, *, waits: bool = False) -> None:
        """Take a snapshot now; publish it now as well, or leave that to the writer.

        Args:
            waits: Return only once it is published and everyone was told.

        Raises:
            CheckpointError: An earlier save, or this one, could not be written.
        """
        self._deliver(state)
        started = time.perf_counter()
        self.settle(state)
        is_best = bool(state.is_new_best and state.is_evaluated)
        if is_best:
            state.best["path"] = str(self._store.folder / "best")
        facts = {"step": state.step, "epoch": state.epoch, "best": is_best}
        self._publisher.save(facts, started)
        state.is_new_best = False
        self._saved = (state.step, len(state.history))
        self._cadence.saved(time.monotonic())
        if waits:
            self.finish(state)
        else:
            self._deliver(state)

    def finish(self, state: Any) -> None:
        """Wait until all that was accepted is published, and tell everyone.

        Raises:
            CheckpointError: A save could not be written.
        """
        self.close()
        self._deliver(state)

    def close(self) -> None:
        """Wait until all that was accepted is published; nobody is told yet.

        Raises:
            CheckpointError: That took too long; the write was abandoned.
        """
        self._publisher.close()

    def finish_quietly(self, state: Any) -> None:
        """As :meth:`finish`, while an error is under way: none takes its place."""
        try:
            self.close()
        except CheckpointError as error:
            self._news.append(error)
        except KeyboardInterrupt:
            self._publisher.abandon()
        items = list(self._news)
        self._news.clear()
        told = (str(item) if isinstance(item, Exception) else item for item in items)
        self._news.extend(told)
        self._deliver(state)

    def _deliver(self, state: Any) -> None:
        """Tell the loop's side what other threads did; their failures are raised."""
        while self._news:
            item = self._news.popleft()
            if isinstance(item, CheckpointError):
                raise item
            if isinstance(item, str):
                self._publisher.tell(item)
                continue
            self._cadence.measured(item.stall_s, item.write_s)
            state.checkpoint = item.facts
            self.notify("on_checkpoint", state)


class _Drain(Callback):
    """Finishes the saver's work before anyone hears that the run has ended.

    After a regular end there is none left; otherwise an error is under way already.
    """

    def __init__(self, saver: CheckpointCallback) -> None:
        self._saver = saver

    def on_fit_end(self, state: Any) -> None:
        self._saver.finish_quietly(state)


def _settle_nothing(_state: Any) -> None:
    """Until the loop exists, nothing is on its way."""


def _tell_nobody(_event: str, _state: Any) -> None:
    """Until the notifier exists, nobody listens."""
