"""The little statistics that watchdogs decide by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

__all__ = ["SIGNIFICANT", "median", "noise", "trend"]

SIGNIFICANT = 1.645
"""Standard deviations that chance exceeds once in twenty, on one side."""


def median(values: Iterable[float]) -> float:
    """Middle value; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def noise(values: Sequence[float]) -> float:
    """Robust standard deviation of values around a line, from their second differences.

    Example:
        >>> noise([1.0, 2.0, 3.0, 4.0])
        0.0
    """
    triples = zip(values, values[1:], values[2:], strict=False)
    bends = [abs(after - 2 * here + before) for before, here, after in triples]
    return 1.4826 * median(bends) / math.sqrt(6) if bends else 0.0


def trend(values: Sequence[float]) -> float:
    """Mann-Kendall statistic of the last 40 in standard deviations; below 0: falling.

    Example:
        >>> trend([5.0, 4.0, 3.0, 2.0, 1.0]) < -SIGNIFICANT
        True
        >>> trend([2.0, 1.0, 2.0, 1.0, 2.0])
        0.0
    """
    values = values[-40:]
    count = len(values)
    pairs = combinations(values, 2)
    score = sum((after > before) - (after < before) for before, after in pairs)
    if count < 3 or score == 0:
        return 0.0
    variance = count * (count - 1) * (2 * count + 5) / 18
    return (abs(score) - 1) / math.sqrt(variance) * math.copysign(1, score)
