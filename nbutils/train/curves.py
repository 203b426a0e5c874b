"""The shapes of learning-rate curves, and where a run stands on one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["DECAYING", "Course", "lr_factor"]

DECAYING = ("onecycle", "cosine", "linear")
ONECYCLE_RISE = 0.3
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1e-4 / 25


def lr_factor(
    kind: str,
    position: float,
    planned: int | None,
    *,
    warmup: int = 0,
    floor: float = 0,
) -> float:
    """Learning rate over peak at the ``position``-th update, counted from 0.

    Args:
        kind: ``constant``, ``onecycle``, ``cosine`` or ``linear``; ``onecycle`` is
            Smith & Topin 2018 without the momentum cycle.
        position: Updates applied so far; a fraction on a shortened course.
        planned: Updates of the whole run; the last one is at the curve's end. A run
            of a single update takes it at the peak.
        warmup: Updates of linear warm-up; for ``onecycle`` those of its rise, where
            0 stands for 30 % of the run.
        floor: Where the curve ends, over peak.

    Example:
        >>> [round(lr_factor("cosine", i, 5), 2) for i in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if kind == "onecycle" and planned is not None:
        return _onecycle(position, max(planned - 1, 0), warmup, floor)
    if position < warmup and not _is_end(kind, position, planned):
        return (position + 1) / (warmup + 1)
    if kind == "constant" or planned is None or planned == 1:
        return 1.0
    last = planned - 1
    done = 1.0 if position >= last else (position - warmup) / max(last - warmup, 1)
    return _cosine(1.0, floor, done) if kind == "cosine" else 1 + (floor - 1) * done


def _is_end(kind: str, position: float, planned: int | None) -> bool:
    return kind != "constant" and planned is not None and 1 <= planned - 1 <= position


def _onecycle(position: float, last: int, rise: int, floor: float) -> float:
    end = max(ONECYCLE_END, floor)
    if position >= last:
        return end if last else 1.0
    peak = rise or ONECYCLE_RISE * last
    if position <= peak:
        return _cosine(ONECYCLE_START, 1.0, position / peak)
    return _cosine(1.0, end, (position - peak) / (last - peak))


def _cosine(start: float, end: float, done: float) -> float:
    done = min(max(done, 0.0), 1.0)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


class Course:
    """Where a count of steps stands on a planned way, whose rest can be shortened.

    Args:
        last: The way's end, in steps; a count of ``last`` stands there.
    """

    def __init__(self, last: float) -> None:
        self.last = last
        self._bend: tuple[int, float, int] | None = None

    def at(self, count: int) -> float:
        """The place that ``count`` has reached; ``count`` itself on a straight way."""
        if self._bend is None:
            return count
        start, place, end = self._bend
        if count >= end:
            return self.last
        return place + (count - start) * (self.last - place) / (end - start)

    def bend(self, count: int, end: int) -> None:
        """From where ``count`` stands, reach the end at ``end``, no place left out."""
        self._bend = (count, self.at(count), end)

    def state_dict(self) -> dict[str, Any]:
        """The bend, if there is one."""
        return {"bend": self._bend}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        bend = state["bend"]
        self._bend = None if bend is None else (bend[0], bend[1], bend[2])
