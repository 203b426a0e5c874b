"""Curves and values of compared runs as one figure, for a slide."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbutils.monitor.comparison.groups import Group
from nbutils.monitor.comparison.judging import Judgement
from nbutils.monitor.comparison.lines import mean_points, points_of
from nbutils.monitor.comparison.reading import ComparedRun
from nbutils.monitor.curves import PALETTE
from nbutils.monitor.figures.style import GREY, new_figure, plain, shorten, styled, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_comparison"]

_STYLES = ("-", "--", "-.", ":")
_MAX_LABELS = 4


def plot_comparison(
    runs: Sequence[ComparedRun],
    groups: Sequence[Group],
    metric: str,
    judgements: Sequence[Judgement],
) -> Figure:
    """Left the curves, thin for a run and thick for a mean; right the values.

    Args:
        runs: All of them.
        groups: The same, by setting; each gets a colour.
        metric: What is drawn.
        judgements: With two groups, the verdict stands above.
    """
    del runs
    with styled():
        height = max(4.2, 0.42 * len(groups) + 2.2)
        figure = new_figure(11.0, height)
        left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
        for at, group in enumerate(groups):
            _draw_curves(left, group, metric, at, is_short=len(groups) > _MAX_LABELS)
            _draw_values(right, group, at)
        _label(left, right, groups, metric)
        figure.suptitle(
            plain(_message(groups, metric, judgements)),
            x=0.012,
            ha="left",
            fontsize=12,
            fontweight="bold",
        )
        for axis in (left, right):
            tidy(axis)
    return figure


def _draw_curves(
    axis: Axes, group: Group, metric: str, at: int, *, is_short: bool
) -> None:
    """Curves of one group; in a crowd its letter names it."""
    label = group.label.partition(":")[0] if is_short else shorten(group.label, 34)
    colour, style = PALETTE[at % len(PALETTE)], _STYLES[at // len(PALETTE) % 4]
    lines = [points for run in group.runs if (points := points_of(run, metric))]
    is_thin = len(lines) > 1
    for points in lines:
        x, y = zip(*points, strict=True)
        axis.plot(
            x,
            y,
            color=colour,
            linestyle=style,
            linewidth=0.8 if is_thin else 2.0,
            alpha=0.45 if is_thin else 1.0,
            marker="o" if len(points) == 1 else None,
            label=None if is_thin else plain(label),
        )
    mean = mean_points(lines) if is_thin else []
    if mean:
        x, y = zip(*mean, strict=True)
        name = plain(f"{label}, mean of {len(lines)}")
        axis.plot(x, y, color=colour, linestyle=style, linewidth=2.4, label=name)


def _draw_values(axis: Axes, group: Group, at: int) -> None:
    colour = PALETTE[at % len(PALETTE)]
    if not group.values:
        return
    axis.scatter(
        group.values, [at] * group.n, s=42, color=colour, alpha=0.75, linewidths=0
    )
    if group.n > 1:
        mean, std = group.mean, statistics.stdev(group.values)
        axis.errorbar(
            mean, at, xerr=std, fmt="|", color="black", markersize=16, capsize=4
        )


def _label(left: Axes, right: Axes, groups: Sequence[Group], metric: str) -> None:
    left.set_xlabel("optimizer step")
    left.set_ylabel(plain(metric))
    if left.lines:
        left.legend(loc="best", fontsize=8.5, ncols=1 + (len(groups) > _MAX_LABELS))
    ticks = [f"{plain(shorten(group.label, 30))}\n(n = {group.n})" for group in groups]
    right.set_yticks(range(len(groups)), ticks, fontsize=8.5)
    right.set_ylim(len(groups) - 0.5, -0.5)
    right.set_xlabel(plain(metric))
    if any(group.n > 1 for group in groups):
        text = "dots: seeds; bar: mean ± standard deviation"
        right.set_title(text, loc="left", fontsize=8.5, color=GREY)


def _message(
    groups: Sequence[Group], metric: str, judgements: Sequence[Judgement]
) -> str:
    if len(judgements) == 1:
        return f"{metric}, B against A: {judgements[0].verdict}"
    return f"{metric} of {len(groups)} settings"
