"""Whether a classifier is as often right as it is sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbutils.monitor.figures.style import (
    BLUE,
    GREY,
    INK,
    headline,
    new_figure,
    styled,
    tidy,
)
from nbutils.monitor.intervals import proportion_interval

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

__all__ = ["calibration_error", "plot_reliability"]

NUM_BINS = 10
RIGHT = "right answers"


def calibration_error(confidence_N: np.ndarray, is_right_N: np.ndarray) -> float:
    """Expected calibration error over ten bins of equal width, 0 to 1.

    The mean gap between confidence and share of right answers, weighted by samples
    (Guo et al., "On calibration of modern neural networks", ICML 2017). It depends on
    the bins, and a small test set makes it larger than it is.

    Example:
        >>> import numpy as np
        >>> round(calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])), 4)
        0.0
    """
    import numpy as np

    total = 0.0
    for chosen in _bins(confidence_N):
        if chosen.any():
            gap = confidence_N[chosen].mean() - is_right_N[chosen].mean()
            total += abs(float(gap)) * float(chosen.mean())
    return float(np.clip(total, 0.0, 1.0))


def plot_reliability(
    confidence_N: np.ndarray, is_right_N: np.ndarray, *, event: str = RIGHT
) -> Figure:
    """Reliability diagram: observed shares over stated confidence, and how many each.

    Args:
        confidence_N: Probabilities 0 to 1, ``(N,)``.
        is_right_N: Whether what they are the probability of came true, ``(N,)``.
        event: What that is.
    """
    import numpy as np

    sure = np.asarray(confidence_N, np.float64)
    right = np.asarray(is_right_N, np.float64)
    error = calibration_error(sure, right)
    with styled():
        figure = new_figure(5.2, 5.4)
        upper, lower = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]}
        )
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        for chosen in _bins(sure):
            count = int(chosen.sum())
            if not count:
                continue
            hits = int(right[chosen].sum())
            found, share = proportion_interval(hits, count), hits / count
            ends = [[share - found.low], [found.high - share]]
            upper.errorbar(
                sure[chosen].mean(),
                share,
                yerr=ends,
                fmt="o",
                markersize=6,
                color=BLUE,
                ecolor=INK,
                elinewidth=1.1,
                capsize=2.5,
            )
        upper.set_ylabel(f"share of {event}, 95% interval")
        upper.set_ylim(-0.02, 1.03)
        edges = np.linspace(0, 1, NUM_BINS + 1)
        lower.hist(sure, bins=list(edges), color=BLUE, alpha=0.85, rwidth=0.92)
        lower.set_ylabel("samples")
        lower.set_xlabel("confidence")
        lower.set_xlim(-0.02, 1.02)
        for axis in (upper, lower):
            tidy(axis)
        detail = f"expected calibration error {error:.3f} over {NUM_BINS} bins, "
        headline(
            figure,
            _message(sure, right, event),
            f"{detail}{len(sure):,} samples; dashed: as often right as it is sure",
        )
    return figure


def _message(sure: np.ndarray, right: np.ndarray, event: str) -> str:
    """Whether the means differ by more than chance, and which way."""
    gap = sure - right
    told = f"{sure.mean():.0%} on average, {right.mean():.0%} came true"
    chance = 1.96 * float(gap.std()) / max(len(gap), 1) ** 0.5
    if abs(float(gap.mean())) <= chance:
        return f"Confidence fits within chance: {told}"
    if event == RIGHT:
        word = "Overconfident" if gap.mean() > 0 else "Underconfident"
        return f"{word}: {told}"
    more = "many" if gap.mean() > 0 else "few"
    return f"Expects too {more} {event}: {told}"


def _bins(confidence_N: np.ndarray) -> list[np.ndarray]:
    """A mask for each bin; 1 belongs to the last."""
    import numpy as np

    place = np.minimum((confidence_N * NUM_BINS).astype(int), NUM_BINS - 1)
    return [place == number for number in range(NUM_BINS)]
