"""Points of compared curves, and values of groups as a strip of dots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from nbutils.monitor.comparison.groups import Group
from nbutils.monitor.comparison.reading import ComparedRun
from nbutils.monitor.curves import PALETTE, ticks
from nbutils.monitor.runview import format_number

__all__ = ["mean_points", "points_of", "strip_svg"]

Points = list[tuple[float, float]]

_ROW = 30
_LEFT = 34


def points_of(run: ComparedRun, metric: str) -> Points:
    """A metric over the steps, one point an epoch; finite ones only."""
    found: Points = []
    for row in run.record.view.rows:
        x, y = row.get("step", row.get("epoch")), row.get(metric)
        if isinstance(y, bool) or not isinstance(y, (int, float)):
            continue
        if math.isfinite(y) and x is not None:
            found.append((float(x), float(y)))
    return found


def mean_points(curves: Sequence[Points]) -> Points:
    """The mean of several curves where all of them have a point."""
    tables = [dict(points) for points in curves]
    common = set.intersection(*(set(table) for table in tables)) if tables else set()
    return [(x, statistics.fmean(t[x] for t in tables)) for x in sorted(common)]


def strip_svg(groups: Sequence[Group], metric: str, width: int = 460) -> str:
    """A dot for each seed in a row for each group; a bar for its mean.

    Args:
        groups: With at least one value among them.
        metric: Name of the axis.
        width: Width in pixels; shrinks with the page.
    """
    values = [value for group in groups for value in group.values]
    if not values:
        return ""
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    low, high = low - pad, high + pad
    right, bottom = width - 16, 28 + _ROW * len(groups)

    def at(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (right - _LEFT)

    parts = [_axis(at, low, high, bottom, width)]
    for number, group in enumerate(groups):
        parts.append(_strip(at, group, 24 + _ROW * (number + 0.5), number))
    name = escape(metric)
    parts.append(
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{bottom + 32}" text-anchor="middle">'
        f"{name}</text>"
    )
    label = escape(f"{metric} of each seed, by setting", quote=True)
    height = bottom + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'style="max-width:100%;height:auto;font:11px system-ui,sans-serif" '
        'fill="currentColor"><text x="10" y="16" font-weight="600" font-size="13">'
        f"Each seed, and the mean of each setting</text>{''.join(parts)}</svg>"
    )


def _axis(at: Any, low: float, high: float, bottom: float, width: int) -> str:
    marks = [
        f'<path d="M{at(x):.1f} 24V{bottom}" stroke="currentColor" '
        f'stroke-opacity=".15"/><text x="{at(x):.1f}" y="{bottom + 15}" '
        f'text-anchor="middle">{escape(format_number(x))}</text>'
        for x in ticks(low, high, max(2, width // 90))
    ]
    line = f'<path d="M{_LEFT} {bottom}H{width - 16}" stroke="currentColor"/>'
    return "".join(marks) + line


def _strip(at: Any, group: Group, y: float, number: int) -> str:
    colour = PALETTE[number % len(PALETTE)]
    letter = escape(group.label.partition(":")[0])
    parts = [f'<text x="12" y="{y + 4:.0f}" font-weight="600">{letter}</text>']
    parts += [
        f'<circle cx="{at(value):.1f}" cy="{y:.1f}" r="4.5" fill="{colour}" '
        f'fill-opacity=".75"><title>seed {escape(str(seed))}: '
        f"{format_number(value)}</title></circle>"
        for seed, value in group.by_seed.items()
    ]
    if group.n > 1:
        x = at(group.mean)
        parts.append(
            f'<path d="M{x:.1f} {y - 10:.1f}v20" stroke="currentColor" '
            'stroke-width="2.2"/>'
        )
    return "".join(parts)
