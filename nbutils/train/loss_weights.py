"""Weights of the loss terms, and their phases over the run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbutils.errors import ConfigError
from nbutils.train.curves import Course

__all__ = ["LossWeights", "phase_factor"]


def phase_factor(points: Sequence[tuple[float, float]], share: float) -> float:
    """The factor at a share of the run: straight lines between the points.

    Before the first point and after the last one the factor is theirs.

    Example:
        >>> phase_factor([(0.25, 0.0), (0.75, 1.0)], 0.5)
        0.5
    """
    place = bisect_right([point[0] for point in points], share)
    if place == 0 or place == len(points):
        return points[max(place - 1, 0)][1]
    (left, low), (right, high) = points[place - 1], points[place]
    return low + (high - low) * (share - left) / (right - left)


class LossWeights:
    """The weight of each term, window by window.

    Args:
        base: Weights that the task and the config set; 1 where absent.
        phases: Points [share of the run, factor] of each term that has phases.
        planned: Windows of the whole run.

    Attributes:
        current: What the step multiplies by; changed in place by :meth:`move`.
        has_phases: Whether any weight changes at all.
        course: Where the run stands in its phases, in windows.

    Raises:
        ConfigError: There are phases, and the run has no planned length.
    """

    def __init__(
        self,
        base: Mapping[str, float],
        phases: Mapping[str, Sequence[tuple[float, float]]],
        planned: int | None,
    ) -> None:
        if phases and planned is None:
            raise ConfigError(
                [
                    f"loss_phases is set for {', '.join(phases)}, but the training "
                    "data has no length, so shares of the run are unknown; set "
                    "max_steps."
                ]
            )
        self.current = dict(base)
        self.has_phases = bool(phases)
        self._base = dict(base)
        self._phases = dict(phases)
        self._planned = max(planned or 1, 1)
        self.course = Course(self._planned)
        self.move(0)

    @classmethod
    def of(cls, task: Any, config: Any, planned: int | None) -> LossWeights:
        """The weights of a run: the config's go before the task's own."""
        loss = config.loss
        base = {**task.loss_weights, **loss.loss_weights}
        return cls(base, loss.loss_phases, planned)

    def move(self, step: int) -> None:
        """Make the weights of the window after ``step`` windows the current ones."""
        share = self.course.at(step) / self._planned
        for name, points in self._phases.items():
            weight = self._base.get(name, 1.0)
            self.current[name] = weight * phase_factor(points, share)

    def effective(self, terms: Iterable[str]) -> dict[str, float]:
        """The current weight of each of ``terms``, 1 where none is set."""
        return {name: self.current.get(name, 1.0) for name in terms}

    def land(self, step: int, end: int) -> None:
        """Run through the rest of the phases until window ``end``."""
        self.course.bend(step, end)
