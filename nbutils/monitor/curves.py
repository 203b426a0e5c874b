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
_STANDALONE = (
    ' xmlns="http://www.w3.org/2000/svg" '
    'style="max-width:100%;height:auto;font:11px system-ui,sans-serif"'
)
_CHAR_PX = 6.1
"""Mean width of a character of the labels, for the legend's layout."""
_DOTTED = 16
"""Up to so many points, each has a dot of its own."""


def svg_curve(
    series: Mapping[str, Points],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    width: int = 460,
    height: int = 240,
    muted: str | None = None,
    log_y: bool = False,
    max_points: int = MAX_POINTS,
    is_bare: bool = False,
) -> str:
    """Curves over one pair of axes, with title, ticks and legend.

    A value that is not finite breaks its curve; the number of such values is said.
    A curve of few points has a dot at each of them.

    Args:
        series: Points of each curve by its name; names are escaped.
        title: What is shown.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        width: Width in pixels; shrinks with the page.
        height: Height in pixels.
        muted: Name of a curve that is drawn thin and grey, behind the others.
        log_y: A logarithmic vertical axis; values of zero or less are not drawn.
        max_points: Bound on the points of one curve.
        is_bare: Leave out what a page can say once for many: fonts and namespace.
    """
    if log_y:
        series = {name: _logarithms(points) for name, points in series.items()}
    plot = _Plot(series, width, height, has_title=bool(title), y_label=y_label)
    plot.muted, plot.max_points = muted, max_points
    if log_y:
        plot.use_decades()
    body = [*plot.axes(x_label, y_label), *plot.lines(), *plot.legend(len(series) > 1)]
    if title:
        body.insert(0, f'<text x="10" y="18" class="t">{escape(title)}</text>')
    if plot.note:
        end = width - 8
        body.append(
            f'<text x="{end}" y="18" text-anchor="end" opacity=".75">{plot.note}</text>'
        )
    label = escape(f"{title or 'curves'}: {', '.join(series) or 'no data'}", quote=True)
    around = "" if is_bare else _STANDALONE
    rules = "" if is_bare else "<style>.t{font-weight:600;font-size:13px}</style>"
    return (
        f'<svg{around} role="img" aria-label="{label}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" fill="currentColor">{rules}'
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
        values = [y for _, y in points[low:high]]
        ends = {low + values.index(min(values)), low + values.index(max(values))}
        kept += [points[index] for index in sorted(ends)]
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


def _logarithms(points: Points) -> list[tuple[float, float]]:
    """Points with the decimal logarithm of their values; NaN where there is none."""
    return [(x, math.log10(y) if y > 0 else math.nan) for x, y in points]


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
        self.max_points = MAX_POINTS
        xs, ys = [x for x, _ in values] or [0.0, 1.0], [y for _, y in values] or [0, 1]
        self.x_low, self.x_high = _widen(min(xs), max(xs), 0.0)
        self.y_low, self.y_high = _widen(min(ys), max(ys), 0.04)
        self.x_ticks = ticks(self.x_low, self.x_high, max(2, width // 80))
        self.y_ticks = ticks(self.y_low, self.y_high, max(2, height // 48))
        self.y_texts = [_tick_text(y) for y in self.y_ticks]
        self._margin = 14 + (16 if y_label else 0)
        self.left = self._margin + max(map(len, self.y_texts)) * _CHAR_PX
        self.top = 12 + (16 if has_title else 0) + (18 if len(series) > 1 else 0)
        edge = max(14, len(_tick_text(self.x_ticks[-1])) * _CHAR_PX / 2 + 2)
        self.right, self.bottom = round(width - edge), height - 38
        self.width, self.height = width, height

    def use_decades(self) -> None:
        """Ticks of a logarithmic axis: powers of ten, and 2 and 5 where few fit."""
        low, high = math.floor(self.y_low), math.ceil(self.y_high)
        powers = range(low, high + 1)
        steps = (1, 2, 5) if self.y_high - self.y_low < 2 else (1,)
        values = [(power, factor) for power in powers for factor in steps]
        shown = [
            (power + math.log10(factor), factor * 10.0**power)
            for power, factor in values
            if self.y_low <= power + math.log10(factor) <= self.y_high
        ]
        stride = max(1, math.ceil(len(shown) / 5))
        if shown := shown[::stride]:
            self.y_ticks = [at for at, _ in shown]
            self.y_texts = [_tick_text(value) for _, value in shown]
        else:
            self.y_texts = [_tick_text(float(f"{10**y:.3g}")) for y in self.y_ticks]
        self.left = self._margin + max(map(len, self.y_texts)) * _CHAR_PX

    @property
    def looks(self) -> dict[str, tuple[str, str]]:
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
        y_pixels = [self.at(self.x_low, y)[1] for y in self.y_ticks]
        x_pixels = [self.at(x, self.y_low)[0] for x in self.x_ticks]
        grid = "".join(f"M{self.left:.0f} {y:.1f}H{self.right}" for y in y_pixels)
        marks = "".join(f"M{x:.1f} {self.bottom}v4" for x in x_pixels)
        y_texts = "".join(
            f'<text x="{self.left - 6:.0f}" y="{y + 4:.0f}">{text}</text>'
            for y, text in zip(y_pixels, self.y_texts, strict=True)
        )
        x_texts = "".join(
            f'<text x="{px:.0f}" y="{self.bottom + 16}">{_tick_text(x)}</text>'
            for px, x in zip(x_pixels, self.x_ticks, strict=True)
        )
        parts = [
            f'<path d="{grid}" stroke="currentColor" stroke-opacity=".15"/>',
            f'<path d="M{self.left:.0f} {self.bottom}H{self.right}{marks}" '
            'stroke="currentColor" stroke-opacity=".7"/>',
            f'<g text-anchor="end">{y_texts}</g>',
            f'<g text-anchor="middle">{x_texts}</g>',
        ]
        middle_x, middle_y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        if x_label:
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
        """One path a curve, and dots on one of few points."""
        parts = []
        names = sorted(self.series, key=lambda name: name != self.muted)
        for name in names:
            (stroke, dash), is_muted = self.looks[name], name == self.muted
            runs = [
                [self.at(x, y) for x, y in run]
                for run in _runs(self.series[name], self.max_points)
            ]
            pixels = [pixel for run in runs for pixel in run]
            if path := "".join(_path(run) for run in runs if len(run) > 1):
                width = 1 if is_muted else 1.8
                parts.append(
                    f'<path d="{path}" fill="none" stroke-width="{width}" '
                    f'stroke-linejoin="round"{stroke}{dash}/>'
                )
            lone = [run[0] for run in runs if len(run) == 1]
            is_sparse = len(self.series[name]) <= min(_DOTTED, self.max_points)
            if dots := pixels if is_sparse and not is_muted else lone:
                spots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in dots)
                parts.append(
                    f'<path d="{spots}" stroke-width="5" stroke-linecap="round"'
                    f"{stroke}/>"
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
                f'{colour}{dash}/><text x="{x + 27:.0f}" y="{y + 4:.0f}">'
                f"{escape(text)}</text>"
            )
            x += 27 + len(text) * _CHAR_PX + 14
        return parts


_GREY = (' stroke="#8c8c8c"', "")


def _look(index: int) -> tuple[str, str]:
    """Stroke and dash attributes of a curve."""
    colour = PALETTE[index % len(PALETTE)]
    dash = DASHES[index % len(DASHES)]
    return f' stroke="{colour}"', f' stroke-dasharray="{dash}"' if dash else ""


def _path(pixels: Sequence[tuple[float, float]]) -> str:
    """Path data in tenths of a pixel; steps from point to point take fewer bytes."""
    tenths = [(round(10 * x), round(10 * y)) for x, y in pixels]
    (x, y), parts = tenths[0], []
    for to_x, to_y in tenths[1:]:
        parts += [_tenth(to_x - x), _tenth(to_y - y)]
        x, y = to_x, to_y
    start = f"M{tenths[0][0] / 10:g} {tenths[0][1] / 10:g}"
    return f"{start}l{' '.join(parts)}".replace(" -", "-")


def _tenth(number: int) -> str:
    """Tenths as text without a needless zero: 12 is ``1.2``, -3 is ``-.3``."""
    whole, rest = divmod(abs(number), 10)
    sign = "-" if number < 0 else ""
    return f"{sign}{whole or ''}{f'.{rest}' if rest else ''}" if number else "0"


def _runs(points: Points, limit: int) -> list[list[tuple[float, float]]]:
    """Stretches of finite points, thinned to ``limit`` together."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if _finite(point):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    runs = [run for run in runs if run][-max(limit // 2, 1) :]
    total = sum(map(len, runs))
    share = min(1.0, limit / total) if total else 1.0
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
