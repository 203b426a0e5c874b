"""What can watch a run: eight hooks, each given the run's state."""

from __future__ import annotations

from typing import Any

__all__ = ["Callback"]


class Callback:
    """Override any of the hooks; each takes the run's ``state``.

    ``state.step`` counts windows attempted, ``state.epoch`` completed passes,
    ``state.history`` is one row per epoch, ``state.request_stop(reason)`` ends the
    run after the current window. A method called ``on_…`` that is no hook is an
    error when the callback is attached.
    """

    def on_fit_start(self, state: Any) -> None:
        """Once, before the first window."""

    def on_epoch_start(self, state: Any) -> None:
        """Before the first window of a pass, or of what a resume left of it."""

    def on_step_end(self, state: Any) -> None:
        """After each window, whether its update was applied or refused."""

    def on_evaluate_end(self, state: Any) -> None:
        """After a pass over the validation data."""

    def on_checkpoint(self, state: Any) -> None:
        """After a checkpoint was published."""

    def on_epoch_end(self, state: Any) -> None:
        """After a whole pass, its evaluation included."""

    def on_stop(self, state: Any) -> None:
        """Once, when the run has decided to end; ``state.stop_reason`` is set."""

    def on_fit_end(self, state: Any) -> None:
        """Once on every way out, errors included."""
