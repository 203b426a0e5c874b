"""Curves are whole SVG documents: bounded, escaped, honest about what is missing."""

from __future__ import annotations

import math
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
    assert len([p for p in parse(svg).iter(f"{SVG}path") if p.get("fill")]) == 2


@pytest.mark.parametrize("series", [{}, {"loss": []}, {"loss": [(0, math.nan)]}])
def test_svg_curve_without_points_says_so(
    series: dict[str, list[tuple[float, float]]],
) -> None:
    assert "no points yet" in texts(svg_curve(series))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-12, 1e30])
def test_svg_curve_of_one_or_equal_points_is_drawn(value: float) -> None:
    assert "<circle" in svg_curve({"a": [(5, value)]})
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
