"""The event log by its lines: what a service has not seen yet can be sent again.

A line's number never changes, as the log only grows. So the number says which events
a service has: sending those from there on loses nothing and doubles nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nbutils.monitor.events import Event

__all__ = ["num_lines", "without_undone"]


def num_lines(path: Path, block: int = 1 << 20) -> int:
    """Whole lines in a file; none if there is no file.

    Example:
        >>> num_lines(Path("/nowhere/events.jsonl"))
        0
    """
    if not path.exists():
        return 0
    total = 0
    with path.open("rb") as file:
        while data := file.read(block):
            total += data.count(b"\n")
    return total


def without_undone(events: Sequence[Event]) -> list[Event]:
    """Events without those of steps that a resume went back behind.

    Example:
        >>> went_on = [{"kind": "step", "step": 1}, {"kind": "step", "step": 2}]
        >>> without_undone([*went_on, {"kind": "resume", "step": 1}])
        [{'kind': 'step', 'step': 1}, {'kind': 'resume', 'step': 1}]
    """
    kept: list[Event] = []
    for event in events:
        step = event.get("step")
        if event["kind"] in ("resume", "run_start") and isinstance(step, int):
            kept = [old for old in kept if not _is_beyond(old, step)]
        kept.append(event)
    return kept


def _is_beyond(event: Event, step: int) -> bool:
    found = event.get("step")
    return isinstance(found, int) and found > step
