"""How sure a number from a sample is: 95 % intervals, and the test of a difference.

Every interval assumes that the samples are independent draws of what the number is
about. Samples in groups (patients, recordings, pages of one book) or in the order of
time say less than their number suggests, and the true interval is wider.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LEVEL",
    "Interval",
    "corrected_interval",
    "mcnemar",
    "mean_interval",
    "proportion_interval",
    "resampled",
]

LEVEL = 0.95
MIN_SAMPLES = 10
"""Fewer say too little about the spread of what they come from."""
MAX_BCA_SAMPLES = 4000
"""Beyond it the mean is normal enough, and the bootstrap gives the same."""
NUM_RESAMPLES = 2000
MIN_RESAMPLES = 200

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where the true value lies, in 95 of 100 test sets like this one.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        method: How it was found.
        num_samples: Samples behind it.
        num_resamples: Draws with replacement; 0 where a formula sufficed.
        level: Its confidence.
    """

    low: float
    high: float
    method: str
    num_samples: int
    num_resamples: int = 0
    level: float = LEVEL

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain values."""
        return asdict(self)


def proportion_interval(num_hits: int, num_samples: int) -> Interval:
    """Wilson's score interval of a share, right for 0 and for all of them too.

    Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927); recommended by Brown, Cai and DasGupta, "Interval estimation for a
    binomial proportion", Statistical Science 16 (2001).

    Example:
        >>> found = proportion_interval(268, 268)
        >>> round(found.low, 4), found.high
        (0.9859, 1.0)
    """
    from scipy.stats import binomtest

    found = binomtest(num_hits, num_samples).proportion_ci(LEVEL, method="wilson")
    return Interval(
        low=float(found.low),
        high=float(found.high),
        method=f"Wilson, {num_hits:,} of {num_samples:,}",
        num_samples=num_samples,
    )


def mean_interval(
    values: ArrayLike, counts: ArrayLike | None = None, *, seed: int = 0
) -> Interval | str:
    """Interval of a mean; of ``sum(counts * values) / sum(counts)`` with counts.

    Up to 4,000 samples, the bias-corrected and accelerated bootstrap over them (Efron,
    "Better bootstrap confidence intervals", JASA 82, 1987); beyond, Student's t with
    the linearised variance of a ratio of means (Cochran, "Sampling techniques", 1977,
    section 6.3).

    Args:
        values: One number a sample.
        counts: Targets in each sample; by default one.
        seed: Of the draws.

    Returns:
        The interval, or a sentence that says why there is none.
    """
    x = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(x) if counts is None else np.asarray(counts, np.float64)
    x, weight = x[weight > 0], weight[weight > 0]
    if len(x) < MIN_SAMPLES:
        return f"{len(x)} samples; at least {MIN_SAMPLES} are needed"
    if not np.isfinite(x).all():
        return "some samples have no finite value"
    if np.ptp(x) <= 1e-12 * max(1.0, float(np.abs(x).max())):
        return f"all {len(x):,} samples have the same value"
    if len(x) > MAX_BCA_SAMPLES:
        return _linearised(x, weight)
    return _accelerated(x, weight, seed)


def _accelerated(x: Floats, weight: Floats, seed: int) -> Interval:
    from scipy.stats import bootstrap

    def ratio(total: Floats, count: Floats, axis: int = -1) -> Floats:
        return total.sum(axis) / count.sum(axis)

    # ``rng`` since SciPy 1.15, which still takes the older name.
    seeding: dict[str, Any] = {"random_state": np.random.default_rng(seed)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a degenerate draw; what is given is told
        found = bootstrap(
            (x * weight, weight),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=NUM_RESAMPLES,
            batch=max(1, 2_000_000 // len(x)),
            confidence_level=LEVEL,
            **seeding,
        ).confidence_interval
    return Interval(
        low=float(found.low),
        high=float(found.high),
        method="BCa bootstrap",
        num_samples=len(x),
        num_resamples=NUM_RESAMPLES,
    )


def _linearised(x: Floats, weight: Floats) -> Interval:
    from scipy.stats import t

    n, center = len(x), float((x * weight).sum() / weight.sum())
    residual = weight * (x - center) / weight.mean()
    half = float(t.ppf((1 + LEVEL) / 2, n - 1) * residual.std(ddof=1) / math.sqrt(n))
    return Interval(
        low=center - half, high=center + half, method="Student's t", num_samples=n
    )


def resampled(
    statistics: Sequence[Callable[[NDArray[np.int64]], float]],
    num_samples: int,
    *,
    seed: int = 0,
    budget_s: float = 5.0,
    num_resamples: int = 1000,
) -> Floats:
    """Each statistic on the same draws with replacement, ``(draws, statistics)``.

    Ends early when the time is used up; a draw on which a statistic is not finite, such
    as a recall of a class that it lacks, is left out.

    Args:
        statistics: Functions of the rows that were drawn, ``int64 (num_samples,)``.
        num_samples: How many rows there are.
        seed: Of the draws.
        budget_s: Seconds it may take.
        num_resamples: Draws, if the time suffices.
    """
    generator = np.random.default_rng(seed)
    until, found = time.perf_counter() + budget_s, []
    for _ in range(num_resamples):
        rows = generator.integers(num_samples, size=num_samples)
        found.append([float(statistic(rows)) for statistic in statistics])
        if time.perf_counter() > until:
            break
    drawn = np.asarray(found, np.float64).reshape(len(found), len(statistics))
    return drawn[np.isfinite(drawn).all(axis=1)]


def corrected_interval(
    draws: Floats, estimate: float, num_samples: int
) -> Interval | str:
    """Bias-corrected percentile interval of a bootstrapped statistic.

    Efron, "Nonparametric standard errors and confidence intervals", Canadian Journal of
    Statistics 9 (1981), section 7.

    Args:
        draws: The statistic on each draw, ``(draws,)``.
        estimate: The statistic on the samples themselves.
        num_samples: How many there are.

    Returns:
        The interval, or a sentence that says why there is none.
    """
    from scipy.stats import norm

    if len(draws) < MIN_RESAMPLES:
        return (
            f"only {len(draws)} resamples were possible in the time allowed; "
            f"{MIN_RESAMPLES} are needed"
        )
    if np.ptp(draws) == 0:
        return f"every resample of these {num_samples:,} samples gives the same value"
    below = (draws < estimate).mean() + 0.5 * (draws == estimate).mean()
    shift = norm.ppf(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws)))
    edge = norm.ppf((1 + LEVEL) / 2)
    low, high = np.quantile(draws, norm.cdf([2 * shift - edge, 2 * shift + edge]))
    return Interval(
        low=float(low),
        high=float(high),
        method="bias-corrected bootstrap",
        num_samples=num_samples,
        num_resamples=len(draws),
    )


def mcnemar(is_right: ArrayLike, other_is_right: ArrayLike) -> float:
    """Exact p-value: two classifiers err equally often on these samples.

    McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947), in its exact binomial form.

    Example:
        >>> mcnemar([1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1])
        0.125
    """
    from scipy.stats import binomtest

    one, other = np.asarray(is_right, bool), np.asarray(other_is_right, bool)
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    if only_one + only_other == 0:
        return 1.0
    return float(binomtest(only_one, only_one + only_other).pvalue)
