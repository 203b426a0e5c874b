"""How well each class is found, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbutils.monitor.figures.style import (
    BLUE,
    GREY,
    INK,
    headline,
    new_figure,
    shorten,
    styled,
    tidy,
)
from nbutils.monitor.intervals import proportion_interval

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

__all__ = ["plot_classes"]

_MAX_BARS = 30


def plot_classes(
    matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Share of each class that was found, with its 95% interval, worst first.

    Args:
        matrix: Counts; rows are true classes, columns predicted ones, ``(K, K)``.
        class_names: K names.
    """
    import numpy as np

    counts = np.asarray(matrix)
    totals, hits = counts.sum(1), counts.diagonal()
    known = [k for k in range(len(class_names)) if totals[k]]
    ranked = sorted(known, key=lambda k: (hits[k] / totals[k], -totals[k]))
    shown = ranked[:_MAX_BARS]
    with styled():
        figure = new_figure(7.0, 1.5 + 0.27 * max(len(shown), 3))
        axis = figure.subplots()
        for place, k in enumerate(shown):
            found = proportion_interval(int(hits[k]), int(totals[k]))
            recall = hits[k] / totals[k]
            axis.barh(place, recall, color=BLUE, height=0.68, alpha=0.85)
            ends = [[recall - found.low], [found.high - recall]]
            axis.errorbar(
                recall, place, xerr=ends, color=INK, capsize=2.5, linewidth=1.1
            )
            axis.text(
                1.02,
                place,
                f"{int(hits[k]):,} of {int(totals[k]):,}",
                va="center",
                fontsize=8,
                color=GREY,
            )
        axis.set_yticks(range(len(shown)), [shorten(class_names[k]) for k in shown])
        axis.set_xlim(0, 1.001)
        axis.set_xticks(
            np.linspace(0, 1, 6), [f"{x:.0%}" for x in np.linspace(0, 1, 6)]
        )
        axis.invert_yaxis()
        axis.set_xlabel("share of the class that was found (recall), 95% interval")
        tidy(axis)
        axis.grid(visible=False, axis="y")
        rest = len(ranked) - len(shown)
        more = f"; the {rest} best classes are left out" if rest else ""
        if len(shown) > 1 and not _differ(shown[0], shown[-1], hits, totals):
            more = f"; the intervals of worst and best shown overlap{more}"
        headline(
            figure,
            _message(shown, hits, totals, class_names),
            f"{len(known)} classes, worst first{more}",
        )
    return figure


def _differ(worst: int, best: int, hits: np.ndarray, totals: np.ndarray) -> bool:
    low = proportion_interval(int(hits[worst]), int(totals[worst]))
    high = proportion_interval(int(hits[best]), int(totals[best]))
    return low.high < high.low


def _message(
    shown: Sequence[int],
    hits: np.ndarray,
    totals: np.ndarray,
    class_names: Sequence[str],
) -> str:
    if not shown:
        return "No class occurs in the data"
    worst, best = shown[0], shown[-1]
    if hits[worst] == totals[worst]:
        return "Every sample of every class was found"
    low, high = hits[worst] / totals[worst], hits[best] / totals[best]
    name = shorten(class_names[worst])
    return f"'{name}' is found least often: {low:.0%}, the best shown {high:.0%}"
