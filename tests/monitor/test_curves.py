"""Curves are whole SVG documents: bounded, escaped, honest about what is missing."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from nbutils.monitor.curves import decimate, svg_curve, ticks

SVG = "{http://www.w3.org/2000/svg}"


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 (our own text)


def texts(text: str) -> list[str]:
    return [node.text or "" for node in parse(text).iter(f"{SVG}text")]


def test_svg_curve_has_title_labels_ticks_and_legend() -> None:
    series = {"train": [(0, 1.0), (10, 0.5)], "val": [(0, 1.2), (10, 0.7)]}
    found = texts(svg_curve(series, title="Loss", x_label="step", y_label="nats"))
    for expected in ("Loss", "step", "nats", "train", "val", "0.6", "10"):
        assert expected in found


def test_svg_curve_tells_curves_apart_without_colour() -> None:
    svg = svg_curve({name: [(0, 0.0), (1, 1.0)] for name in "abc"})
    paths = [p for p in parse(svg).iter(f"{SVG}path") if p.get("fill") == "none"]
    assert len({path.get("stroke-dasharray") for path in paths}) == 3


def test_svg_curve_escapes_names() -> None:
    nasty = "<script>alert('&\"')</script>"
    svg = svg_curve(
        {nasty: [(0, 1.0)], "b": [(0, 1.0)]}, title=nasty, x_label=nasty, y_label=nasty
    )
    assert "<script" not in svg
    assert nasty in texts(svg)


def test_svg_curve_of_a_long_run_stays_under_ten_kilobytes() -> None:
    points = [(x, math.sin(x / 50)) for x in range(100_000)]
    assert len(svg_curve({"loss": points}).encode()) < 10_000


def test_svg_curve_with_nan_breaks_the_line_and_says_so() -> None:
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, 2.0)]
    svg = svg_curve({"loss": points})
    assert "1 not finite, not drawn" in texts(svg)
    assert "nan" not in svg
    (path,) = [p for p in parse(svg).iter(f"{SVG}path") if p.get("fill")]
    assert path.get("d", "").count("M") == 2


@pytest.mark.parametrize("series", [{}, {"loss": []}, {"loss": [(0, math.nan)]}])
def test_svg_curve_without_points_says_so(
    series: dict[str, list[tuple[float, float]]],
) -> None:
    assert "no points yet" in texts(svg_curve(series))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-12, 1e30])
def test_svg_curve_of_one_or_equal_points_is_drawn(value: float) -> None:
    assert 'stroke-linecap="round"' in svg_curve({"a": [(5, value)]})
    assert 'fill="none"' in svg_curve({"a": [(5, value), (6, value)]})


def test_svg_curve_with_many_gaps_stays_bounded() -> None:
    points = [(x, math.nan if x % 2 else 1.0) for x in range(20_000)]
    assert len(svg_curve({"a": points})) < 20_000


def test_svg_curve_with_many_names_cuts_the_legend() -> None:
    svg = svg_curve({f"a_long_name_{i}": [(0, i)] for i in range(12)})
    assert "…" in texts(svg)


def test_svg_curve_muted_is_grey_and_drawn_first() -> None:
    line = [(0, 0.0), (1, 1.0)]
    svg = svg_curve({"a": line, "steps": line}, muted="steps")
    strokes = [p.get("stroke") for p in parse(svg).iter(f"{SVG}path") if p.get("fill")]
    assert strokes[0] == "#8c8c8c"
    assert strokes[1] == "#0072B2"


def test_decimate_keeps_peaks_and_order() -> None:
    points = [(x, 0.0) for x in range(10_000)]
    points[4321] = (4321, 9.0)
    kept = decimate(points)
    assert len(kept) <= 300
    assert (4321, 9.0) in kept
    assert kept == sorted(kept)


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.013, 0.97) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(3, 3) == [3]
    assert ticks(0, math.inf) == [0]


def test_svg_curve_path_of_small_steps_ends_where_it_should() -> None:
    points = [(x, math.sin(x / 7)) for x in range(120)]
    (path,) = [
        p for p in parse(svg_curve({"a": points})).iter(f"{SVG}path") if p.get("fill")
    ]
    start, steps = path.get("d", "").removeprefix("M").split("l")
    numbers = [float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", steps)]
    assert len(numbers) == 2 * 119
    x, y = (float(n) for n in start.split())
    assert x + sum(numbers[::2]) == pytest.approx(446, abs=0.2)
    assert 20 < y + sum(numbers[1::2]) < 200


def test_svg_curve_with_few_points_has_a_dot_at_each() -> None:
    svg = svg_curve({"a": [(x, x) for x in range(7)]})
    (dots,) = [p for p in parse(svg).iter(f"{SVG}path") if p.get("stroke-linecap")]
    assert dots.get("d", "").count("h0") == 7


def test_svg_curve_on_a_logarithmic_axis_has_powers_of_ten() -> None:
    points = [(x, 10.0 ** (2 - x)) for x in range(5)]
    found = texts(svg_curve({"loss": [*points, (5, 0.0), (6, -1.0)]}, log_y=True))
    for expected in ("100", "10", "1", "0.1", "0.01", "2 not finite, not drawn"):
        assert expected in found


@pytest.mark.parametrize("values", [(1.0, 1.1), (3.0, 3.0), (1e-30, 1e30)])
def test_svg_curve_on_a_logarithmic_axis_of_any_span_has_ticks(
    values: tuple[float, float],
) -> None:
    svg = svg_curve({"a": list(enumerate(values))}, log_y=True)
    (labels,) = [g for g in parse(svg).iter(f"{SVG}g") if g.get("text-anchor") == "end"]
    assert 1 <= len(list(labels)) <= 6


def test_svg_curve_bare_leaves_fonts_to_the_page() -> None:
    svg = svg_curve({"a": [(0, 1.0)]}, is_bare=True)
    assert "style" not in svg
    assert "xmlns" not in svg
