"""Intervals of test numbers, and of their differences to a trivial predictor's."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nbutils.data.task import Task
from nbutils.monitor.intervals import (
    LEVEL,
    Interval,
    corrected_interval,
    mcnemar,
    mean_interval,
    proportion_interval,
    resampled,
)
from nbutils.train.measure.answers import Answers, right_answers, statistic
from nbutils.train.measure.measured import Baseline, Difference
from nbutils.train.measure.singles import Singles
from nbutils.train.measure.trivial import Trivial

__all__ = ["Judge"]

Floats = NDArray[np.float64]

METRIC_BUDGET_S = 5.0
"""For one metric that has to be recomputed on resampled answers."""
ALL_METRICS_BUDGET_S = 20.0

_RISING = ("accuracy", "f1", "auc", "auroc", "precision", "recall", "r2", "iou", "dice")
_FALLING = ("loss", "error", "mse", "rmse", "mae", "nll", "crps", "perplexity")


class Judge:
    """Says how sure each number of one evaluation is.

    Args:
        task: Has the metrics.
        own: The model's numbers, sample by sample.
        answers: The model's outputs and the targets, where they were kept.
        seed: Of the draws.
    """

    def __init__(self, task: Task, own: Singles, answers: Answers, seed: int) -> None:
        self._metrics = task.metrics if isinstance(task.metrics, Mapping) else {}
        self._own = own
        self._answers = answers
        self._seed = seed
        self._pair: tuple[Tensor, Tensor] | None = None
        if not answers.is_empty:
            self._pair = (answers.outputs(), answers.targets())
        self._left_s = ALL_METRICS_BUDGET_S

    @property
    def num_answers(self) -> int:
        """Samples whose outputs were kept."""
        return 0 if self._pair is None else len(self._pair[1])

    def interval(self, name: str, value: Any) -> Interval | str:
        """The interval of a reported number, or why there is none."""
        if not isinstance(value, (int, float)):
            return "it is a list of numbers"
        if not math.isfinite(value):
            return "it is not finite"
        if self._is_stateful(name):
            return self._of_metric(name, value)
        column = self._own.column(name, value)
        if isinstance(column, str):
            return column
        if _is_proportion(column, self._own.counts):
            return proportion_interval(int(column.sum()), len(column))
        return mean_interval(column, self._own.counts, seed=self._seed)

    def baseline(
        self,
        trivial: Trivial,
        metrics: Mapping[str, Any],
        other: tuple[Singles, Answers],
        ours: Mapping[str, Any],
    ) -> Baseline:
        """The numbers of a trivial predictor, and this run's minus them.

        Args:
            trivial: The predictor.
            metrics: What it reaches on the same data.
            other: Its numbers sample by sample, and its answers.
            ours: What this run reaches.
        """
        differences = {
            name: self._difference(name, ours[name], value, *other)
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and isinstance(ours.get(name), float)
        }
        return Baseline(
            name=trivial.name, how=trivial.how, metrics=metrics, differences=differences
        )

    def _difference(
        self, name: str, ours: float, value: float, singles: Singles, answers: Answers
    ) -> Difference:
        found: Interval | str = ""
        p_value = None
        if self._is_stateful(name):
            found, p_value = self._metric_difference(name, ours, value, answers)
        else:
            mine, other = self._own.column(name, ours), singles.column(name, value)
            if isinstance(mine, str) or isinstance(other, str):
                found = mine if isinstance(mine, str) else str(other)
            else:
                counts = self._own.counts
                found = mean_interval(mine - other, counts, seed=self._seed)
                if _is_proportion(mine, counts) and _is_proportion(other, counts):
                    p_value = mcnemar(mine, other)
        verdict = _verdict(ours - value, found, p_value, self._rises(name))
        return Difference(
            value=ours - value, interval=found, p_value=p_value, verdict=verdict
        )

    def _of_metric(self, name: str, value: float) -> Interval | str:
        if self._pair is None:
            return self._answers.reason or "outputs and targets were not kept"
        right = self._right(*self._pair, name, value)
        if right is not None:
            return proportion_interval(int(right.sum()), len(right))
        own = statistic(self._metrics[name], *self._pair)
        if abs(own(np.arange(self.num_answers)) - value) > 1e-4 * max(1.0, abs(value)):
            return "recomputed on the host, the metric gives another number"
        draws = self._resample([own], self.num_answers)
        return corrected_interval(draws[:, 0], value, self.num_answers)

    def _metric_difference(
        self, name: str, ours: float, value: float, answers: Answers
    ) -> tuple[Interval | str, float | None]:
        if self._pair is None or answers.is_empty:
            reason = self._answers.reason or answers.reason
            return reason or "outputs and targets were not kept", None
        (outputs, targets), other = self._pair, answers.outputs()
        right = self._right(outputs, targets, name, ours)
        other_right = self._right(other, targets, name, value)
        if right is not None and other_right is not None:
            found = mean_interval(right - other_right, seed=self._seed)
            return found, mcnemar(right, other_right)
        pair = [statistic(self._metrics[name], o, targets) for o in (outputs, other)]
        draws = self._resample(pair, len(targets))
        gap = draws[:, 0] - draws[:, 1]
        return corrected_interval(gap, ours - value, len(targets)), None

    def _resample(self, statistics: list[Any], num_samples: int) -> Floats:
        """Draws within what is left of the time for all metrics together."""
        started_s = time.perf_counter()
        budget_s = min(METRIC_BUDGET_S, self._left_s)
        draws = resampled(statistics, num_samples, seed=self._seed, budget_s=budget_s)
        self._left_s -= time.perf_counter() - started_s
        return draws

    def _right(
        self, outputs: Tensor, targets: Tensor, name: str, value: float
    ) -> Floats | None:
        """Right or wrong by sample, where that is what the metric counts."""
        kind = type(self._metrics[name]).__name__
        counts_all = getattr(self._metrics[name], "average", "micro") == "micro"
        if value in (0.0, 1.0) and not ("Accuracy" in kind and counts_all):
            return None  # a coincidence cannot be told from the real thing
        return right_answers(self._answers.kind, outputs, targets, value)

    def _is_stateful(self, name: str) -> bool:
        return hasattr(self._metrics.get(name), "compute")

    def _rises(self, name: str) -> bool | None:
        """Whether higher is better; None where nobody says."""
        told = getattr(self._metrics.get(name), "higher_is_better", None)
        if told is not None:
            return bool(told)
        words = name.lower().replace("-", "_").split("_")
        if any(word in _FALLING for word in words):
            return False
        return True if any(word in _RISING for word in words) else None


def _is_proportion(column: Floats, counts: Floats) -> bool:
    is_flag = bool(np.isin(column, (0.0, 1.0)).all())
    return is_flag and bool((counts == 1).all()) and len(column) > 0


def _verdict(
    value: float, found: Interval | str, p_value: float | None, rises: bool | None
) -> str:
    """What the difference says; the test decides where there is no interval."""
    if isinstance(found, str):
        if p_value is None and value != 0:
            return "unknown"
        is_apart = p_value is not None and p_value < 1 - LEVEL
    else:
        is_apart = not found.low <= 0 <= found.high
    if not is_apart:
        return "not told apart"
    if rises is None:
        return "different"
    return "better" if (value > 0) == rises else "worse"
