"""When to save: by steps, epochs and minutes, at each new best, and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from nbutils.checkpoint.plain import refuse_extra_state
from nbutils.checkpoint.snapshot import collect
from nbutils.checkpoint.store import CheckpointStore
from nbutils.train.callback import Callback

__all__ = ["CheckpointCallback"]


class CheckpointCallback(Callback):
    """Saves the run; must be attached last, so that it saves what others did.

    Args:
        store: Where checkpoints go.
        cadence: The config's checkpoint section.
        model: The model, and
        parts: everything else with a ``state_dict``.

    Attributes:
        notify: Fires ``on_checkpoint``; set once the notifier exists.
    """

    def __init__(
        self,
        store: CheckpointStore,
        cadence: Any,
        model: nn.Module,
        parts: Mapping[str, Any],
    ) -> None:
        self._store = store
        self._cadence = cadence
        self._model = model
        self._parts = parts
        self.notify: Callable[[str, Any], None] = _tell_nobody
        self._saved = (-1, -1)
        self._saved_s = time.monotonic()

    def on_fit_start(self, state: Any) -> None:
        refuse_extra_state(self._model)  # now, not at the end of the first epoch
        self._saved = (state.step, len(state.history))
        self._saved_s = time.monotonic()

    def on_step_end(self, state: Any) -> None:
        every, minutes = (
            self._cadence.save_every_steps,
            self._cadence.save_every_minutes,
        )
        is_due = every is not None and state.step % every == 0
        if minutes is not None:
            is_due = is_due or time.monotonic() - self._saved_s >= 60 * minutes
        if is_due:
            self.save(state)

    def on_epoch_end(self, state: Any) -> None:
        every = self._cadence.save_every_epochs
        if state.is_new_best or (every is not None and state.epoch % every == 0):
            self.save(state)

    def on_stop(self, state: Any) -> None:
        if self._saved != (state.step, len(state.history)):
            self.save(state)

    def save(self, state: Any) -> None:
        """Take a snapshot now, publish it, tell everyone."""
        started = time.perf_counter()
        is_best = bool(state.is_new_best and state.is_evaluated)
        if is_best:
            state.best["path"] = str(self._store.folder / "best")
        snapshot = collect(state.step, self._model, self._parts)
        path = self._store.publish(snapshot, is_best=is_best)
        state.is_new_best = False
        self._saved = (state.step, len(state.history))
        self._saved_s = time.monotonic()
        state.checkpoint = {
            "path": str(path),
            "seconds": round(time.perf_counter() - started, 4),
            "bytes": snapshot.num_bytes(),
            "best": is_best,
        }
        self.notify("on_checkpoint", state)


def _tell_nobody(_event: str, _state: Any) -> None:
    """Until the notifier exists, nobody listens."""
