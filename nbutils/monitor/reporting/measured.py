"""Test numbers with intervals and baselines; best and last weights compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from nbutils.monitor.reporting.ground import Ground
from nbutils.monitor.reporting.html import Section, folded, mapping, moment, table
from nbutils.monitor.runview import NO_METRIC, format_number

__all__ = ["interval_of", "main_test", "test_section", "weights_section"]

_MAX_METRICS = 40
_WIDTH, _HEIGHT = 170, 18
_CHOSEN = (
    "Validation numbers of the best weights were chosen among epochs, and are "
    "flattered by that; test numbers were not."
)


def main_test(ground: Ground) -> tuple[str, Mapping[str, Any]] | None:
    """Weights and record of the test that speaks for the run: the latest one."""
    if not ground.tests:
        return None
    latest = str(ground.record.run.get("test_weights") or "")
    name = latest if latest in ground.tests else next(iter(ground.tests))
    return name, ground.tests[name]


def interval_of(test: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Both ends of a metric's interval, where there is one."""
    found = (test.get("intervals") or {}).get(name)
    if not isinstance(found, Mapping):
        return None
    low, high = found.get("low"), found.get("high")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return float(low), float(high)
    return None


def test_section(ground: Ground) -> Section:
    """The section on test data."""
    found = main_test(ground)
    if found is None:
        missing = "test numbers: run.evaluate('test') was not called, or has no data"
        return Section("test", "Test", "", missing)
    weights, test = found
    return Section("test", "Test", "".join(_test(weights, test, ground)))


def _test(weights: str, test: Mapping[str, Any], ground: Ground) -> Iterator[str]:
    metrics = test["metrics"]
    plain = {k: v for k, v in metrics.items() if isinstance(v, (int, float))}
    yield f'<p class="note">{escape(_told(weights, test, ground))}</p>'
    yield _metric_table(plain, test)
    yield _baseline_table(test)
    for note in test.get("notes") or ():
        yield f'<p class="note">{escape(str(note))}</p>'
    if rest := {k: v for k, v in metrics.items() if k not in plain}:
        yield folded("Numbers that are lists", mapping(rest))


test_section.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def _told(weights: str, test: Mapping[str, Any], ground: Ground) -> str:
    parts = []
    if test.get("num_samples"):
        parts.append(f"{test['num_samples']:,} samples")
    at = f" (step {test['step']:,})" if isinstance(test.get("step"), int) else ""
    parts.append(f"weights: {weights}{at}")
    if test.get("time_s"):
        parts.append(f"evaluated {moment(test['time_s'])}")
    looks = ground.record.run.get("num_tests")
    if isinstance(looks, int):
        times = "once" if looks == 1 else f"{looks} times"
        parts.append(f"the test data was looked at {times}")
    return " · ".join(parts) + "."


def _metric_table(metrics: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    rows = []
    for name, value in list(metrics.items())[:_MAX_METRICS]:
        found = (test.get("intervals") or {}).get(name) or {}
        ends = interval_of(test, name)
        told = _between(ends) if ends else "none"
        rows.append(
            (name, value, told, (_drawn(name, value, ends, test),), _how(found))
        )
    return table(
        ("metric", "this run", "95% interval", "", "how"),
        rows,
        caption="Bar: the interval; dot: this run; diamond: the first baseline.",
        numeric=(1, 2),
    )


def _how(found: Mapping[str, Any]) -> str:
    if found.get("reason"):
        return f"no interval: {found['reason']}"
    if not found.get("method"):
        return "no interval was recorded"
    drawn = found.get("num_resamples")
    return f"{found['method']}, {drawn:,} resamples" if drawn else str(found["method"])


def _baseline_table(test: Mapping[str, Any]) -> str:
    baselines = test.get("baselines") or ()
    rows = [
        (baseline.get("name"), name, value, *_difference(baseline, name))
        for baseline in baselines
        for name, value in (baseline.get("metrics") or {}).items()
        if isinstance(value, (int, float))
    ][:_MAX_METRICS]
    if not rows:
        return ""
    how = "".join(
        f"<li><b>{escape(str(baseline.get('name')))}</b> "
        f"{escape(str(baseline.get('how')))}.</li>"
        for baseline in baselines
    )
    head = (
        "baseline",
        "metric",
        "reaches",
        "difference",
        "95% interval",
        "this run is",
    )
    caption = "The same samples; differences are this run minus baseline, paired."
    shown = table(head, rows, caption=caption, numeric=(2, 3, 4))
    return f"<h3>Against trivial baselines</h3>{shown}<ul class=note>{how}</ul>"


def _difference(baseline: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    found = (baseline.get("differences") or {}).get(name)
    if not isinstance(found, Mapping):
        return "-", "-", "not compared"
    held = found.get("interval") or {}
    is_known = isinstance(held.get("low"), (int, float))
    told = _between((held["low"], held["high"])) if is_known else "none"
    words = str(found.get("verdict", "-"))
    if not is_known and held.get("reason"):
        words = f"not compared: {held['reason']}"
    p = found.get("p_value")
    if isinstance(p, (int, float)):
        words += f" (McNemar p {'< 0.001' if p < 0.001 else format(p, '.3f')})"
    value = found.get("value")
    sign = "+" if isinstance(value, (int, float)) and value > 0 else ""
    return f"{sign}{format_number(value)}", told, words


def _between(ends: tuple[float, float]) -> str:
    return f"{format_number(ends[0])} to {format_number(ends[1])}"


def _drawn(
    name: str, value: Any, ends: tuple[float, float] | None, test: Mapping[str, Any]
) -> str:
    """The interval as a bar, with the first baseline on the same scale."""
    others = [
        baseline["metrics"][name]
        for baseline in (test.get("baselines") or ())[:1]
        if isinstance((baseline.get("metrics") or {}).get(name), (int, float))
    ]
    marks = [float(x) for x in (value, *(ends or ()), *others)]
    if ends is None or not all(map(math.isfinite, marks)):
        return ""
    low, high = min(marks), max(marks)
    span = (high - low) or abs(high) or 1.0

    def at(x: float) -> float:
        return 7 + (_WIDTH - 14) * (x - low) / span

    middle = _HEIGHT / 2
    left, right = at(ends[0]), at(ends[1])
    other = "".join(
        f'<path d="M{at(x):.1f} {middle - 5}l5 5l-5 5l-5-5z" fill="none" '
        'stroke="currentColor" stroke-width="1.3"/>'
        for x in others
    )
    label = escape(f"{name}: {_between(ends)}", quote=True)
    return (
        f'<svg role="img" aria-label="{label}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}"><path d="M0 {middle}H{_WIDTH}" '
        'stroke="currentColor" stroke-opacity=".2"/>'
        f'<path d="M{left:.1f} {middle}H{max(right, left + 1):.1f}" stroke="#0072B2" '
        f'stroke-width="5"/>{other}<circle cx="{at(float(value)):.1f}" cy="{middle}" '
        'r="4" fill="#0072B2" stroke="Canvas"/></svg>'
    )


def weights_section(ground: Ground) -> Section:
    """Best and last weights side by side, on validation and on test data."""
    record = ground.record
    best, rows = record.best, record.view.rows
    if not rows:
        return Section("weights", "Weights compared", "", "finished epochs to compare")
    last = rows[-1]
    at_best = next((row for row in rows if row.get("step") == best.get("step")), None)
    columns = _columns(rows, best)
    table_rows = []
    if at_best is not None:
        table_rows.append(("best", *_weights_row(at_best, columns, ground, "best")))
    table_rows.append(("last", *_weights_row(last, columns, ground, "last")))
    tested = list(dict.fromkeys(n for t in ground.tests.values() for n in t["metrics"]))
    head = ("weights", "step", "epoch", *columns, *(f"test {n}" for n in tested[:4]))
    body = table(head, table_rows, numeric=range(1, len(head)))
    if at_best is not None and any(name.startswith("val_") for name in columns):
        body += f'<p class="note">{_CHOSEN}</p>'
    return Section("weights", "Weights compared", body + _average(ground))


def _columns(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys(name for row in rows[-1:] for name in row)
    known = [n for n in names if n not in NO_METRIC]
    known.sort(key=lambda name: name != best.get("metric"))
    return known[:6]


def _weights_row(
    row: Mapping[str, Any], columns: Sequence[str], ground: Ground, weights: str
) -> list[Any]:
    names = list(dict.fromkeys(n for t in ground.tests.values() for n in t["metrics"]))
    test = ground.tests.get(weights)
    cells: list[Any] = [row.get("step"), row.get("epoch")]
    cells += [row.get(name) for name in columns]
    for name in names[:4]:
        value = None if test is None else test["metrics"].get(name)
        ends = None if test is None else interval_of(test, name)
        text = format_number(value) if isinstance(value, (int, float)) else "-"
        cells.append(f"{text} ({_between(ends)})" if ends else text)
    return cells


def _average(ground: Ground) -> str:
    decay, _ = ground.record.settings.get("ema_decay", ("null", ""))
    if decay in ("null", "", "0", "0.0"):
        return '<p class="note">No running average of the weights was kept.</p>'
    return (
        f'<p class="note">A running average of the weights was kept (decay '
        f"{escape(decay)}): validation, test and exports use it; training does not.</p>"
    )
