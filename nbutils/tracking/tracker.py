"""The seam to tracking services: a sink for events, and what numbers they carry."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["NoTracker", "StepLimiter", "Tracker", "numbers"]

Event = dict[str, Any]
_NOT_A_VALUE = ("time_s", "kind", "step", "epoch", "split", "metrics", "terms")


class Tracker(Protocol):
    """A view over the events, kept by a service.

    ``write`` is meant for ``EventLog.subscribe``, which counts what it raises.
    """

    def write(self, event: Event) -> None:
        """Mirror one event."""

    def finish(self, exit_code: int = 0) -> None:
        """Hand over what is left; never raises, a second call does nothing."""


class NoTracker:
    """Mirrors nothing; the event log has everything anyway."""

    def write(self, event: Event) -> None:
        """Nothing to mirror."""

    def finish(self, exit_code: int = 0) -> None:
        """Nothing to end."""


def numbers(event: Event) -> dict[str, float]:
    """The numbers of an event under the names that the services show.

    Steps give ``train/loss``, evaluations ``val/accuracy``, epochs ``epoch/val_loss``,
    rare events a count of one, such as ``events/refused``.

    Example:
        >>> numbers({"kind": "step", "step": 3, "loss": 0.5, "terms": {"kl": 0.1}})
        {'train/loss': 0.5, 'train/terms/kl': 0.1}
    """
    kind = event["kind"]
    if kind == "step":
        terms = event.get("terms") or {}
        return _named("train/", event) | _named("train/terms/", terms)
    if kind == "epoch":
        return _named("epoch/", event)
    if kind == "evaluate":
        split = str(event.get("split", "val"))
        metrics = event.get("metrics") or {}
        return _named(
            f"{split}/",
            {name.removeprefix(f"{split}_"): x for name, x in metrics.items()},
        )
    if kind in ("refused", "rollback", "watchdog", "oom", "resume"):
        return {f"events/{kind}": 1.0}
    return {}


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}{name}": float(value)
        for name, value in values.items()
        if name not in _NOT_A_VALUE
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    }


class StepLimiter:
    """Lets a burst of steps pass, then so many a second: services are slow.

    One ``wandb.log`` takes 0.1 to 0.3 ms; a step may take less than one. Only steps
    are ever left out, and the event log keeps them all.

    Args:
        burst: Steps that pass at once.
        per_s: Steps that pass per second after that.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        burst: int = 1000,
        per_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_left_out = 0
        self._burst, self._per_s, self._clock = burst, per_s, clock
        self._tokens, self._last_s = float(burst), clock()

    def admits(self, event: Event) -> bool:
        """Whether this event is to be mirrored."""
        if event["kind"] != "step":
            return True
        now_s = self._clock()
        gained = (now_s - self._last_s) * self._per_s
        self._tokens, self._last_s = min(self._burst, self._tokens + gained), now_s
        if self._tokens < 1:
            self.num_left_out += 1
            return False
        self._tokens -= 1
        return True
