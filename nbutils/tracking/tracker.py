"""The seam to tracking services: a sink for events, and what numbers they carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Bins", "NoTracker", "Several", "Tracker", "bins", "numbers"]

Event = dict[str, Any]
_NOT_A_VALUE = ("time_s", "kind", "step", "epoch", "split", "metrics", "terms")
_COUNTED = ("refused", "rollback", "watchdog", "oom", "resume")


class Tracker(Protocol):
    """A view over the events, kept by a service.

    Both methods may raise: who calls them tells it once, and the run goes on.
    """

    def write(self, event: Event) -> None:
        """Mirror one event."""

    def finish(self, exit_code: int = 0) -> None:
        """Hand over what is left; a second call does nothing."""


class NoTracker:
    """Mirrors nothing; the event log has everything anyway."""

    def write(self, event: Event) -> None:
        """Nothing to mirror."""

    def finish(self, exit_code: int = 0) -> None:
        """Nothing to end."""


class Several:
    """Trackers side by side; one that fails takes none of the others with it.

    Args:
        parts: Trackers, by the name that a failure is told under.
    """

    def __init__(self, parts: Mapping[str, Tracker]) -> None:
        self.parts = dict(parts)

    def write(self, event: Event) -> None:
        """Mirror one event everywhere; the first failure is raised afterwards."""
        self._each([lambda part=part: part.write(event) for part in self._trackers()])

    def finish(self, exit_code: int = 0) -> None:
        """End all of them; the first failure is raised afterwards."""
        ends = [lambda part=part: part.finish(exit_code) for part in self._trackers()]
        self._each(ends)

    def _trackers(self) -> list[Tracker]:
        return list(self.parts.values())

    def _each(self, actions: Sequence[Any]) -> None:
        failures: list[Exception] = []
        for action in actions:
            try:
                action()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]


def numbers(event: Event) -> dict[str, float]:
    """The numbers of an event under the names that the services show.

    Steps give ``train/loss``, evaluations ``val/accuracy``, epochs ``epoch/val_loss``,
    what a monitor measured stays as it is named, rare events give a count of one, such
    as ``events/refused``.

    Example:
        >>> numbers({"kind": "step", "step": 3, "loss": 0.5, "terms": {"kl": 0.1}})
        {'train/loss': 0.5, 'train/terms/kl': 0.1}
        >>> numbers({"kind": "monitor", "step": 3, "values": {"host/rss_bytes": 9}})
        {'host/rss_bytes': 9.0}
    """
    kind = event["kind"]
    if kind == "step":
        terms = event.get("terms") or {}
        return _named("train/", event) | _named("train/terms/", terms)
    if kind == "monitor":
        return _named("", event.get("values") or {})
    if kind == "epoch":
        return _named("epoch/", event)
    if kind == "evaluate":
        split = str(event.get("split", "val"))
        metrics = event.get("metrics") or {}
        return _named(
            f"{split}/",
            {name.removeprefix(f"{split}_"): x for name, x in metrics.items()},
        )
    if kind in _COUNTED:
        return {f"events/{kind}": 1.0}
    return {}


@dataclass(frozen=True, slots=True)
class Bins:
    """A histogram: how often values lay between two neighbouring edges.

    Args:
        name: What was counted.
        edges: One more than there are counts, ascending.
        counts: How many values lay in each bin.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]


def bins(event: Event) -> Bins | None:
    """The histogram that an event carries; none for any other kind.

    Example:
        >>> bins({"kind": "histogram", "name": "w", "edges": [0, 1], "counts": [5]})
        Bins(name='w', edges=(0.0, 1.0), counts=(5.0,))
    """
    if event["kind"] != "histogram":
        return None
    edges = tuple(map(float, event.get("edges") or ()))
    counts = tuple(map(float, event.get("counts") or ()))
    if not counts or len(edges) != len(counts) + 1:
        return None  # nothing that could be drawn
    return Bins(str(event.get("name")), edges, counts)


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}{name}": float(value)
        for name, value in values.items()
        if name not in _NOT_A_VALUE
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    }
