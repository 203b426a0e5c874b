"""Many watchers behind one hook: most steps cost one comparison."""

from __future__ import annotations

from collections.abc import Sequence

from nbutils.train.callback import Callback
from nbutils.train.notifier import Notifier
from nbutils.train.state import RunState
from nbutils.train.watchers.devices import DeviceMonitor
from nbutils.train.watchers.watcher import NEVER, Watcher

__all__ = ["Board"]


class Board(Callback):
    """Hands each hook on; after a step, to those alone whose ``wake`` has come.

    Args:
        watchers: In their order.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._notify = Notifier(watchers)
        hook = Callback.on_step_end
        self._watchers = [w for w in watchers if type(w).on_step_end is not hook]
        self._wake = 0
        for watcher in watchers:
            if isinstance(watcher, DeviceMonitor):
                watcher.call = self.call

    def call(self) -> None:
        """Look at all watchers after the step under way; from any thread."""
        self._wake = 0

    def on_fit_start(self, state: RunState) -> None:
        self._notify("on_fit_start", state)
        self._wake = 0

    def on_epoch_start(self, state: RunState) -> None:
        self._notify("on_epoch_start", state)

    def on_step_end(self, state: RunState) -> None:
        step = state.step
        if step < self._wake:
            return
        self._wake = NEVER  # whoever calls from now on is heard
        for watcher in self._watchers:
            if step >= watcher.wake:
                watcher.on_step_end(state)
        soonest = min((watcher.wake for watcher in self._watchers), default=NEVER)
        self._wake = min(self._wake, soonest)

    def on_evaluate_end(self, state: RunState) -> None:
        self._notify("on_evaluate_end", state)

    def on_checkpoint(self, state: RunState) -> None:
        self._notify("on_checkpoint", state)

    def on_epoch_end(self, state: RunState) -> None:
        self._notify("on_epoch_end", state)

    def on_stop(self, state: RunState) -> None:
        self._notify("on_stop", state)

    def on_fit_end(self, state: RunState) -> None:
        self._notify.finish(state)
