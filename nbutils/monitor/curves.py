"""Curves as inline SVG: drawn in under a millisecond, readable on light and dark.

Colours are the Okabe-Ito set, told apart by people with any colour vision; each
curve also has a dash pattern of its own. Text takes the colour of the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["MAX_POINTS", "PALETTE", "decimate", "svg_curve", "ticks"]

Points = Sequence[tuple[float, float]]

MAX_POINTS = 300
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("", "6 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2")
_CHAR_PX = 6.1
"""Mean width of a character of the labels, for the legend's layout."""


def svg_curve(
    series: Mapping[str, Points],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    width: int = 460,
    height: int = 240,
    muted: str | None = None,
) -> str:
    """Curves over one pair of axes, with title, ticks and legend.

    A value that is not finite breaks its curve; the number of such values is said.

    Args:
        series: Points of each curve by its name; names are escaped.
        title: What is shown.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        width: Width in pixels; shrinks with the page.
        height: Height in pixels.
        muted: Name of a curve that is drawn thin and grey, behind the others.
    """
    plot = _Plot(series, width, height, has_title=bool(title), y_label=y_label)
    plot.muted = muted
    body = [*plot.axes(x_label, y_label), *plot.lines(), *plot.legend(len(series) > 1)]
    if title:
        body.insert(0, f'<text x="10" y="18" class="t">{escape(title)}</text>')
    if plot.note:
        end = width - 8
        body.append(
            f'<text x="{end}" y="18" text-anchor="end" opacity=".75">{plot.note}</text>'
        )
    label = escape(f"{title or 'curves'}: {', '.join(series) or 'no data'}", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'style="max-width:100%;height:auto;font:11px system-ui,sans-serif" '
        'fill="currentColor"><style>.t{font-weight:600;font-size:13px}</style>'
        f"{''.join(body)}</svg>"
    )


def decimate(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most ``limit`` points; of each bucket its lowest and its highest stay.

    Example:
        >>> decimate([(0, 5), (1, 9), (2, 1), (3, 4)], limit=2)
        [(1, 9), (2, 1)]
    """
    if len(points) <= limit:
        return list(points)
    num_buckets = max(limit // 2, 1)
    kept: list[tuple[float, float]] = []
    for number in range(num_buckets):
        low = number * len(points) // num_buckets
        high = (number + 1) * len(points) // num_buckets
        order = sorted(range(low, high), key=lambda index: points[index][1])
        kept += [points[index] for index in sorted({order[0], order[-1]})]
    return kept


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within ``[low, high]``, about ``count`` of them.

    Example:
        >>> ticks(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / max(count, 1)
    if raw <= 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


class _Plot:
    """Finite points of the curves and the way from values to pixels."""

    def __init__(
        self,
        series: Mapping[str, Points],
        width: int,
        height: int,
        *,
        has_title: bool,
        y_label: str,
    ) -> None:
        self.series = series
        values = [p for points in series.values() for p in points if _finite(p)]
        num_lost = sum(map(len, series.values())) - len(values)
        self.note = f"{num_lost} not finite, not drawn" if num_lost else ""
        self.empty = not values
        self.muted: str | None = None
        xs, ys = [x for x, _ in values] or [0.0, 1.0], [y for _, y in values] or [0, 1]
        self.x_low, self.x_high = _widen(min(xs), max(xs), 0.0)
        self.y_low, self.y_high = _widen(min(ys), max(ys), 0.04)
        self.x_ticks = ticks(self.x_low, self.x_high, max(2, width // 80))
        self.y_ticks = ticks(self.y_low, self.y_high, max(2, height // 48))
        longest = max(len(_tick_text(y)) for y in self.y_ticks)
        self.left = 14 + longest * _CHAR_PX + (16 if y_label else 0)
        self.top = 12 + (16 if has_title else 0) + (18 if len(series) > 1 else 0)
        self.right, self.bottom = width - 14, height - 38
        self.width, self.height = width, height

    @property
    def looks(self) -> dict[str, tuple[tuple[str, str], str]]:
        """Colour and dash attributes of each curve."""
        coloured = [name for name in self.series if name != self.muted]
        looks = {name: _look(index) for index, name in enumerate(coloured)}
        return looks | {name: _GREY for name in self.series if name == self.muted}

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a value."""
        across = (x - self.x_low) / (self.x_high - self.x_low)
        up = (y - self.y_low) / (self.y_high - self.y_low)
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )

    def axes(self, x_label: str, y_label: str) -> list[str]:
        """Grid, tick texts and axis names."""
        parts = []
        for y in self.y_ticks:
            _, py = self.at(self.x_low, y)
            parts.append(
                f'<path d="M{self.left:.1f} {py:.1f}H{self.right}" '
                'stroke="currentColor" stroke-opacity=".15"/>'
                f'<text x="{self.left - 6:.1f}" y="{py + 4:.1f}" '
                f'text-anchor="end">{_tick_text(y)}</text>'
            )
        for x in self.x_ticks:
            px, _ = self.at(x, self.y_low)
            parts.append(
                f'<path d="M{px:.1f} {self.bottom}v4" stroke="currentColor"/><text '
                f'x="{px:.1f}" y="{self.bottom + 16}" text-anchor="middle">'
                f"{_tick_text(x)}</text>"
            )
        parts.append(
            f'<path d="M{self.left:.1f} {self.bottom}H{self.right}" '
            'stroke="currentColor" stroke-opacity=".7"/>'
        )
        middle_x, middle_y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        parts.append(
            f'<text x="{middle_x:.0f}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
        )
        if y_label:
            parts.append(
                f'<text transform="translate(13 {middle_y:.0f}) rotate(-90)" '
                f'text-anchor="middle">{escape(y_label)}</text>'
            )
        if self.empty:
            parts.append(
                f'<text x="{middle_x:.0f}" y="{middle_y:.0f}" text-anchor="middle">'
                "no points yet</text>"
            )
        return parts

    def lines(self) -> list[str]:
        """One path a curve; lone points become dots."""
        parts = []
        names = sorted(self.series, key=lambda name: name != self.muted)
        for name, (colour, dash) in ((name, self.looks[name]) for name in names):
            points, stroke = self.series[name], 1 if name == self.muted else 1.8
            for run in _runs(points):
                pixels = [self.at(x, y) for x, y in run]
                if len(pixels) == 1:
                    x, y = pixels[0]
                    at = f'cx="{x:.1f}" cy="{y:.1f}"'
                    parts.append(f'<circle {at} r="3"{colour[1]}/>')
                    continue
                path = "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)
                parts.append(
                    f'<path d="M{path}" fill="none" stroke-width="{stroke}" '
                    f'stroke-linejoin="round"{colour[0]}{dash}/>'
                )
        return parts

    def legend(self, wanted: bool) -> list[str]:
        """A sample and the name of each curve, in a row above the axes."""
        parts, x, y = [], self.left, self.top - 10
        for name in self.series if wanted else ():
            colour, dash = self.looks[name]
            room = int((self.width - x - 34) / _CHAR_PX)
            if room < 4:
                parts.append(f'<text x="{x:.0f}" y="{y + 4:.0f}">…</text>')
                break
            text = name if len(name) <= room else name[: room - 1] + "…"
            parts.append(
                f'<path d="M{x:.0f} {y:.0f}h22" stroke-width="2.2" fill="none"'
                f'{colour[0]}{dash}/><text x="{x + 27:.0f}" y="{y + 4:.0f}">'
                f"{escape(text)}</text>"
            )
            x += 27 + len(text) * _CHAR_PX + 14
        return parts


_GREY = ((' stroke="#8c8c8c"', ' fill="#8c8c8c"'), "")


def _look(index: int) -> tuple[tuple[str, str], str]:
    """Stroke, fill and dash attributes of a curve."""
    colour = PALETTE[index % len(PALETTE)]
    dash = DASHES[index % len(DASHES)]
    return (
        (f' stroke="{colour}"', f' fill="{colour}"'),
        f' stroke-dasharray="{dash}"' if dash else "",
    )


def _runs(points: Points) -> list[list[tuple[float, float]]]:
    """Stretches of finite points, thinned to :data:`MAX_POINTS` together."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if _finite(point):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    runs = [run for run in runs if run][-MAX_POINTS // 2 :]
    total = sum(map(len, runs))
    share = min(1.0, MAX_POINTS / total) if total else 1.0
    return [decimate(run, max(2, int(len(run) * share))) for run in runs]


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _widen(low: float, high: float, fraction: float) -> tuple[float, float]:
    """Some air around the values; a flat curve gets a band of its own."""
    span = high - low
    if span <= abs(high) * 1e-12:
        pad = abs(high) * 0.1 or 0.5
        return low - pad, high + pad
    return low - fraction * span, high + fraction * span


def _tick_text(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.10g}"
