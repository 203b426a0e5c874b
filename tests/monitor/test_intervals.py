"""Intervals hold what they promise: the true value, in 95 of 100 test sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nbutils.monitor.intervals import (
    Interval,
    corrected_interval,
    mcnemar,
    mean_interval,
    proportion_interval,
    resampled,
)


def coverage(
    draw: Callable[[], Any], truth: float, make: Callable[[Any], Any], repeats: int
) -> float:
    """Share of simulated test sets whose interval holds the truth."""
    hits = 0
    for _ in range(repeats):
        found = make(draw())
        assert isinstance(found, Interval)
        hits += found.low <= truth <= found.high
    return hits / repeats


@pytest.mark.parametrize(("num", "share"), [(268, 0.97), (60, 0.9), (40, 0.5)])
def test_proportion_interval_covers_the_true_share(num: int, share: float) -> None:
    draws = np.random.default_rng(1)
    found = coverage(
        lambda: int(draws.binomial(num, share)),
        share,
        lambda hits: proportion_interval(hits, num),
        1000,
    )
    assert 0.92 <= found <= 0.98


def test_mean_interval_of_skewed_losses_covers_the_true_mean() -> None:
    draws = np.random.default_rng(2)
    found = coverage(lambda: draws.exponential(size=120), 1.0, mean_interval, 300)
    assert 0.92 <= found <= 0.98


def test_mean_interval_with_counts_covers_the_ratio_of_means() -> None:
    draws = np.random.default_rng(3)

    def sample() -> tuple[Any, Any]:
        counts = draws.integers(1, 20, size=120)  # such as tokens in a text
        return draws.exponential(size=120) + 0.05 * counts, counts

    truth = 1 + 0.05 * (19 * 20 * 39 / 6) / (19 * 10)  # E[c^2] / E[c], c in 1 .. 19
    found = coverage(sample, truth, lambda pair: mean_interval(*pair), 300)
    assert 0.92 <= found <= 0.98


def test_mean_interval_of_many_samples_covers_and_agrees_with_the_bootstrap() -> None:
    draws = np.random.default_rng(4)
    found = coverage(lambda: draws.exponential(size=4500), 1.0, mean_interval, 300)
    assert 0.92 <= found <= 0.98
    many = draws.exponential(size=4001)
    large, small = mean_interval(many), mean_interval(many[:4000])
    assert isinstance(large, Interval)
    assert isinstance(small, Interval)
    assert (large.method, small.method) == ("Student's t", "BCa bootstrap")
    assert large.low == pytest.approx(small.low, abs=2e-3)
    assert large.high == pytest.approx(small.high, abs=2e-3)


def test_corrected_interval_of_a_metric_that_is_no_mean_covers_it() -> None:
    """Macro F1 of three unequal classes, resampled with its samples."""
    draws = np.random.default_rng(5)
    shares = np.array([[0.5, 0.05, 0.05], [0.05, 0.2, 0.05], [0.02, 0.03, 0.05]])

    def macro_f1(counts: Any) -> float:
        return float((2 * np.diag(counts) / (counts.sum(0) + counts.sum(1))).mean())

    def interval(cells: Any) -> Any:
        def of(rows: Any) -> float:
            return macro_f1(np.bincount(cells[rows], minlength=9).reshape(3, 3))

        drawn = resampled([of], len(cells), num_resamples=300)
        return corrected_interval(drawn[:, 0], of(np.arange(len(cells))), len(cells))

    found = coverage(
        lambda: draws.choice(9, size=300, p=shares.ravel()),
        macro_f1(shares),
        interval,
        250,
    )
    assert 0.92 <= found <= 0.98


def test_mcnemar_rejects_a_true_equality_in_at_most_one_of_twenty() -> None:
    draws = np.random.default_rng(6)
    rejected = sum(
        mcnemar(draws.random(200) < 0.8, draws.random(200) < 0.8) < 0.05
        for _ in range(400)
    )
    assert rejected / 400 <= 0.05
    same = draws.random(50) < 0.5
    assert mcnemar(same, same) == 1.0


def test_proportion_interval_without_a_mistake_has_width() -> None:
    found = proportion_interval(100, 100)
    assert found.high == pytest.approx(1.0)
    assert 0.95 < found.low < 0.97
    assert found.to_json()["method"] == "Wilson, 100 of 100"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, 2.0], "at least 10 are needed"),
        ([0.5] * 20, "all 20 samples have the same value"),
        ([*range(20), np.nan], "no finite value"),
    ],
)
def test_mean_interval_says_why_there_is_none(values: list[float], reason: str) -> None:
    found = mean_interval(values)
    assert isinstance(found, str)
    assert reason in found


def test_mean_interval_leaves_out_samples_without_targets() -> None:
    values = [*np.arange(20.0), np.nan]
    found = mean_interval(values, [1] * 20 + [0])
    assert isinstance(found, Interval)
    assert found.num_samples == 20


def test_mean_interval_repeats_with_its_seed() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_resampled_keeps_to_its_time_and_drops_what_is_not_finite() -> None:
    def slow(rows: Any) -> float:
        total = 0.0
        for _ in range(20):
            total += float(np.sort(rows).sum())
        return total

    assert len(resampled([slow], 20_000, budget_s=0.05)) < 1000
    drawn = resampled([lambda rows: np.nan if 0 in rows else 1.0], 3, num_resamples=50)
    assert 0 < len(drawn) < 50


def test_corrected_interval_of_few_or_equal_draws_says_why_there_is_none() -> None:
    assert "only 3 resamples" in str(corrected_interval(np.arange(3.0), 1.0, 9))
    assert "gives the same value" in str(corrected_interval(np.ones(300), 1.0, 9))
