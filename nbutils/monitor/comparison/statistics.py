"""How sure a difference of two samples is: t-tests, permutations, intervals, effects.

Sources: Welch, "The generalization of Student's problem", Biometrika 34 (1947);
Pitman, "Significance tests which may be applied to samples from any populations",
J. R. Stat. Soc. Suppl. 4 (1937); Hedges, "Distribution theory for Glass's estimator of
effect size", J. Educ. Stat. 6 (1981); Holm, "A simple sequentially rejective multiple
test procedure", Scand. J. Stat. 6 (1979). On seeds: Colas et al., "How many random
seeds?", arXiv 1806.08295; Bouthillier et al., "Accounting for variance in machine
learning benchmarks", arXiv 2103.03098.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "CONFIDENCE",
    "Sample",
    "exact_floor",
    "holm",
    "paired",
    "seeds_for",
    "welch",
]

CONFIDENCE = 0.95
MAX_EXACT = 20_000
"""Rearrangements that are all counted; beyond, as many random ones are drawn."""

Numbers = Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a pair of samples says; NaN where it says nothing.

    Args:
        difference: Mean of the second minus mean of the first.
        ci_low: Lower end of the 95 % confidence interval of the difference.
        ci_high: Its upper end.
        effect_size: Hedges' g; of pairs, of their differences.
        p_t: Two-sided, of Welch's or of the paired t-test.
        p_exact: Two-sided, of all rearrangements of the values.
        floor: The smallest ``p_exact`` that so many values can give.
    """

    difference: float
    ci_low: float
    ci_high: float
    effect_size: float
    p_t: float
    p_exact: float
    floor: float


def welch(a: Numbers, b: Numbers) -> Sample:
    """Two independent samples, whose scatter may differ; at least two values each.

    Example:
        >>> found = welch([1.0, 2.0, 3.0], [3.0, 4.0, 5.0])
        >>> round(found.p_t, 4), found.p_exact, found.difference
        (0.0705, 0.2, 2.0)
    """
    difference = float(np.mean(b) - np.mean(a))
    floor = exact_floor(len(a), len(b))
    p_exact = _permuted(a, b)
    scale = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    if _is_flat(scale, a, b):
        return _without_scatter(difference, p_exact, floor)
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    squares = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
    p_t, reach = _t_test(difference, math.sqrt(sum(parts)), sum(parts) ** 2 / squares)
    return Sample(
        difference=difference,
        ci_low=difference - reach,
        ci_high=difference + reach,
        effect_size=difference / scale * _hedges(len(a) + len(b) - 2),
        p_t=p_t,
        p_exact=p_exact,
        floor=floor,
    )


def paired(a: Numbers, b: Numbers) -> Sample:
    """Values of the same seeds, in the same order; at least two of them.

    Example:
        >>> found = paired([1.0, 2.0, 3.0], [2.0, 3.1, 3.9])
        >>> round(found.p_t, 4), found.p_exact
        (0.0033, 0.25)
    """
    change = np.subtract(b, a)
    difference = float(change.mean())
    floor = exact_floor(len(a), len(b), is_paired=True)
    p_exact = _signs_flipped(change)
    scale = float(change.std(ddof=1))
    if _is_flat(scale, a, b):
        return _without_scatter(difference, p_exact, floor)
    p_t, reach = _t_test(difference, scale / math.sqrt(len(a)), len(a) - 1)
    return Sample(
        difference=difference,
        ci_low=difference - reach,
        ci_high=difference + reach,
        effect_size=difference / scale * _hedges(len(a) - 1),
        p_t=p_t,
        p_exact=p_exact,
        floor=floor,
    )


def exact_floor(num_a: int, num_b: int, *, is_paired: bool = False) -> float:
    """The smallest two-sided p that counting rearrangements can give.

    Example:
        >>> round(exact_floor(2, 2), 3), exact_floor(3, 3), exact_floor(3, 3,
        ...     is_paired=True)
        (0.333, 0.1, 0.25)
    """
    if is_paired:
        return min(1.0, 2.0 / 2**num_a)
    mirrored = 2 if num_a == num_b else 1  # the other extreme has the same sizes
    return min(1.0, mirrored / math.comb(num_a + num_b, num_a))


def seeds_for(
    alpha: float, *, is_paired: bool = False, num_tests: int = 1, at_least: int = 2
) -> int:
    """Seeds of each group from which that smallest p lies below ``alpha``.

    Example:
        >>> seeds_for(0.05), seeds_for(0.05, is_paired=True)
        (4, 6)
    """
    count = at_least
    while num_tests * exact_floor(count, count, is_paired=is_paired) >= alpha:
        count += 1
    return count


def holm(values: Numbers) -> list[float]:
    """Holm's correction: p-values that stand against the usual limit, all at once.

    NaN stays, and counts as no test.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    known = sorted((p, at) for at, p in enumerate(values) if not math.isnan(p))
    corrected = [math.nan] * len(values)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[at] = highest
    return corrected


def _t_test(difference: float, error: float, freedom: float) -> tuple[float, float]:
    """Two-sided p, and how far the interval reaches to either side."""
    from scipy import stats  # not its t-tests: they warn of samples without scatter

    p = 2 * stats.t.sf(abs(difference) / error, freedom)
    return float(p), float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * error)


def _permuted(a: Numbers, b: Numbers) -> float:
    """Share of the ways to deal out all values that differ as much, or more."""
    from scipy import stats

    def distance(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis))

    result = stats.permutation_test(
        (np.asarray(a, dtype=float), np.asarray(b, dtype=float)),
        distance,
        permutation_type="independent",
        alternative="greater",
        vectorized=True,
        n_resamples=MAX_EXACT,
        **_generator(),
    )
    return float(result.pvalue)


def _signs_flipped(change: np.ndarray) -> float:
    """Share of the ways to swap within pairs that differ as much, or more."""
    from scipy import stats

    def distance(x: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(np.mean(x, axis=axis))

    result = stats.permutation_test(
        (change,),
        distance,
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=MAX_EXACT,
        **_generator(),
    )
    return float(result.pvalue)


def _generator() -> dict[str, Any]:
    """Draws the same each time; its argument has another name since SciPy 1.15."""
    from scipy import stats

    known = inspect.signature(stats.permutation_test).parameters
    name = "rng" if "rng" in known else "random_state"
    return {name: np.random.default_rng(0)}


def _hedges(freedom: int) -> float:
    """Takes the bias of few values out of an effect size (Hedges 1981, eq. 6e)."""
    half = freedom / 2
    log_ratio = math.lgamma(half) - math.lgamma(half - 0.5) if freedom > 1 else None
    if log_ratio is None:
        return math.nan  # one degree of freedom: the correction is not defined
    return math.exp(log_ratio) / math.sqrt(half)


def _is_flat(scale: float, a: Numbers, b: Numbers) -> bool:
    """No scatter beyond rounding: a t-test would divide by nothing."""
    return scale <= 1e-12 * max(map(abs, [*a, *b]), default=0.0)


def _without_scatter(difference: float, p_exact: float, floor: float) -> Sample:
    return Sample(
        difference=difference,
        ci_low=math.nan,
        ci_high=math.nan,
        effect_size=math.nan,
        p_t=math.nan,
        p_exact=p_exact,
        floor=floor,
    )
