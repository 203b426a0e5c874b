"""The head of the report: how the run ended and what it reached, at a glance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from nbutils.monitor.reporting.caveats import verdict_of
from nbutils.monitor.reporting.course import sittings
from nbutils.monitor.reporting.ground import Ground
from nbutils.monitor.reporting.html import Section, badge
from nbutils.monitor.reporting.measured import interval_of, main_test
from nbutils.monitor.runview import format_duration, format_number

__all__ = ["header", "verdict_badge"]


def header(ground: Ground, sections: Sequence[Section]) -> str:
    """Name, status, a summary in a sentence or two, tiles, links."""
    record = ground.record
    recipe = record.settings.get("recipe", ("", ""))[0]
    task = str(record.run.get("task") or "")
    subject = recipe if recipe not in ("", "null") else task
    kind, words = ground.ending
    links = "".join(f'<a href="#{s.key}">{escape(s.title)}</a>' for s in sections)
    path = record.path.resolve()
    place = f"{path.parent.name}/{path.name}"  # not all of it: reports are passed on
    sub = " · ".join(text for text in (subject, place) if text)
    return (
        f"<header><h1>Run {escape(record.name)}</h1>"
        f'<p class="sub">{escape(sub)}</p>'
        f"<p>{badge(kind, words)} {verdict_badge(ground)}</p>"
        f'<p class="lead">{escape(" ".join(_sentences(ground)))}</p>'
        f'<div class="tiles">{"".join(_tiles(ground))}</div>'
        f'<nav aria-label="Sections">{links}</nav></header>'
    )


def verdict_badge(ground: Ground) -> str:
    """What the checks before the run said, in a few words."""
    verdict = verdict_of(ground)
    if not verdict:
        return badge("warn", "not checked before it started")
    ids = verdict.get("ids") or {}
    warned = sum(1 for found in ids.values() if found == "warn")
    if not verdict.get("passed"):
        return badge("fail", "checks failed")
    if warned:
        return badge("warn", f"checks passed, {warned} with a warning")
    return badge("pass", f"{len(ids)} checks before it, none failed")


def _sentences(ground: Ground) -> Iterator[str]:
    record = ground.record
    planned = record.view.start.get("planned_steps")
    of = f" of {planned:,} planned" if isinstance(planned, int) else ""
    duration = format_duration(_active_s(ground))
    did = f"It did {record.view.step:,}{of} steps in {duration}"
    yield did + {
        "running": " so far, and goes on.",
        "killed": "; then its process was killed, or the machine was lost.",
    }.get(ground.status, f" and ended: {record.stop_reason}.")
    if found := main_test(ground):
        yield from _test_sentence(found[1], record.best.get("metric"))
    elif record.best.get("value") is not None:
        best = record.best
        value = format_number(best["value"])
        yield f"Best {best.get('metric')} {value}; no test data was evaluated."


def _active_s(ground: Ground) -> float:
    found = sittings(ground.record.events)
    return sum(s.seconds for s in found) if found else ground.record.seconds


def _test_sentence(test: Mapping[str, Any], monitored: Any) -> Iterator[str]:
    name = _main_metric(test, monitored)
    if name is None:
        return
    ends = interval_of(test, name)
    text = f"On test data: {name} {format_number(test['metrics'][name])}"
    if ends:
        text += f" (95% interval {format_number(ends[0])} to {format_number(ends[1])})"
    for baseline in (test.get("baselines") or ())[:1]:
        value = (baseline.get("metrics") or {}).get(name)
        found = (baseline.get("differences") or {}).get(name) or {}
        if isinstance(value, (int, float)):
            words = {
                "better": "better than",
                "worse": "worse than",
                "not told apart": "not told apart from",
            }.get(str(found.get("verdict")), "beside")
            text += f", {words} '{baseline.get('name')}' at {format_number(value)}"
    yield text + "."


def _main_metric(test: Mapping[str, Any], monitored: Any) -> str | None:
    names = [n for n, v in test["metrics"].items() if isinstance(v, (int, float))]
    wanted = str(monitored or "").removeprefix("val_")
    if wanted in names:
        return wanted
    return next((name for name in names if name != "loss"), names[0] if names else None)


def _tiles(ground: Ground) -> Iterator[str]:
    record, best = ground.record, ground.record.best
    start = record.view.start
    if found := main_test(ground):
        _, test = found
        name = _main_metric(test, best.get("metric"))
        if name is not None:
            ends = interval_of(test, name)
            told = (
                f", 95%: {format_number(ends[0])} to {format_number(ends[1])}"
                if ends
                else ", no interval"
            )
            yield _tile(format_number(test["metrics"][name]), f"test {name}{told}")
    if best:
        at = f" at step {format_number(best.get('step'))}"
        yield _tile(format_number(best.get("value")), f"best {best['metric']}{at}")
    else:
        yield _tile("not recorded", "best")
    planned = start.get("planned_steps")
    label = f"steps of {format_number(planned)} planned" if planned else "steps"
    yield _tile(format_number(record.view.step), label)
    yield _tile(format_duration(_active_s(ground)), "duration, without pauses")
    if start.get("num_parameters"):
        yield _tile(format_number(start["num_parameters"]), "parameters")
    known = [str(start[key]) for key in ("device", "precision") if start.get(key)]
    if known:
        yield _tile(", ".join(known), "device, precision")
    if record.view.num_refused:
        yield _tile(format_number(record.view.num_refused), "updates refused")
    if record.view.num_resumes:
        yield _tile(format_number(record.view.num_resumes), "resumes")


def _tile(text: str, label: str) -> str:
    return f'<div class="tile"><b>{escape(text)}</b><span>{escape(label)}</span></div>'
