"""The curves of a dashboard: loss, validation metrics, learning rate, loss scale."""

from __future__ import annotations

import math

from nbutils.monitor.about import About
from nbutils.monitor.curves import svg_curve
from nbutils.monitor.runview import RunView

__all__ = ["curves_html", "smoothed"]

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT = 256, 164
_DETAILS = (300, 180, 120, 80, 60, 48, 36, 28, 20, 14, 8)
"""Points of one curve, the most that fit are taken."""
_MAX_METRICS = 3
_NOISY = 40
"""From so many points on, the loss of each step stands behind its mean."""
_LEAST_MEAN = 6.0
"""Over so many points, at least, a loss is averaged."""
_WIDE = 30.0
"""A loss that falls by this factor is shown on a logarithmic axis."""


def curves_html(
    view: RunView, about: About | None = None, max_bytes: int = 5_000
) -> str:
    """Loss, validation metrics and learning rate over steps, side by side.

    Args:
        view: The run so far.
        about: Names the monitored metric, which is then drawn first.
        max_bytes: Bound on the drawing; the finest one that fits is taken.
    """
    charts: list[str] = []
    # Finer than that is no finer, or sure to be too large.
    below = min(2 * max(len(view.loss.points), 16), max_bytes / 50)
    for max_points in _DETAILS:
        if max_points > below:
            continue
        charts = [
            *_loss(view, max_points),
            *_metrics(view, about, max_points),
            *_one(view.lr.points, "Learning rate", max_points),
            *_loss_scale(view, max_points),
        ]
        num_bytes = sum(len(chart.encode()) for chart in charts)
        if num_bytes <= max_bytes:
            break
        below = max_points * max_bytes / num_bytes
    while charts and sum(len(chart.encode()) for chart in charts) > max_bytes:
        charts.pop()  # the first ones are worth more
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def smoothed(points: Points, share: float = 0.015) -> Points:
    """A running mean over about ``share`` of the curve; its first points weigh less.

    A curve of few points stays as it is.

    Example:
        >>> smoothed([(0, 1.0), (1, 1.0)], share=1.0)
        [(0, 1.0), (1, 1.0)]
    """
    if len(points) < _NOISY:
        return [(x, y) for x, y in points if math.isfinite(y)]
    decay = 1.0 - 1.0 / max(share * len(points), _LEAST_MEAN)
    total = weight = 0.0
    means: Points = []
    for x, y in points:
        if not math.isfinite(y):
            continue
        total, weight = decay * total + y, decay * weight + 1.0
        means.append((x, total / weight))
    return means


def _loss(view: RunView, max_points: int) -> list[str]:
    points = view.loss.points
    if len(points) < 2:
        return []
    series: dict[str, Points] = {}
    is_noisy = len(points) >= _NOISY
    series["train"] = smoothed(points) if is_noisy else points
    if checked := view.checked.get("val_loss"):
        series["val"] = checked.points
    if is_noisy:
        series["step"] = points
    values = [y for name in series for _, y in series[name] if math.isfinite(y)]
    is_wide = bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)
    muted = "step" if is_noisy else None
    return [_svg(series, "Loss", max_points, muted=muted, log_y=is_wide)]


def _metrics(view: RunView, about: About | None, max_points: int) -> list[str]:
    """Validation numbers other than the loss, the monitored one first."""
    series = {
        name: kept.points
        for name, kept in view.checked.items()
        if name != "val_loss" and len(kept.points) > 1
    }
    first = about.monitor if about is not None else ""
    names = sorted(series, key=lambda name: name != first)[:_MAX_METRICS]
    if not names:
        return []
    if len(names) == 1:
        return [_svg({names[0]: series[names[0]]}, names[0], max_points)]
    short = {name.removeprefix("val_"): series[name] for name in names}
    return [_svg(short, "Validation", max_points)]


def _loss_scale(view: RunView, max_points: int) -> list[str]:
    kept = view.monitored.get("amp/loss_scale")
    if kept is None:
        return []
    return _one(kept.points, "Loss scale", max_points, log_y=True)


def _one(points: Points, title: str, max_points: int, log_y: bool = False) -> list[str]:
    if len(points) < 2:
        return []
    return [_svg({title: points}, title, max_points // 2, log_y=log_y)]


def _svg(
    series: dict[str, Points],
    title: str,
    max_points: int,
    *,
    muted: str | None = None,
    log_y: bool = False,
) -> str:
    return svg_curve(
        series,
        title=title if len(title) < 32 else title[:31] + "…",
        x_label="step",
        muted=muted,
        log_y=log_y,
        max_points=max(max_points, 4),
        is_bare=True,
        width=_WIDTH,
        height=_HEIGHT,
    )
