"""What ties the trackers to a run: its ids in every snapshot, and a service's Stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nbutils.train.callback import Callback

__all__ = ["TrackerLink"]


class TrackerLink(Callback):
    """A part of each snapshot and a watcher of the run at once.

    As a part it holds the ids under which services know the run, so that a run which
    is resumed from a copy of a checkpoint, in another folder or on another machine,
    continues there as well. As a watcher it lends the run's ``request_stop`` to the
    services while the run is under way.

    Attributes:
        ids: Plain values by name, such as ``wandb_id``.
        tell: Where a tracker's sentences go.
    """

    def __init__(self) -> None:
        self.ids: dict[str, Any] = {}
        self.tell: Callable[[str], None] = print
        self._state: Any = None

    def on_fit_start(self, state: Any) -> None:
        self._state = state

    def on_fit_end(self, state: Any) -> None:
        self._state = None

    def request_stop(self, reason: str) -> None:
        """End the run after its current window; may be called from any thread."""
        state = self._state
        if state is not None:
            state.request_stop(reason)

    def state_dict(self) -> dict[str, Any]:
        """The ids, as plain values."""
        return dict(self.ids)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the ids of a snapshot; those that are known already stay."""
        self.ids = {**state, **self.ids}
