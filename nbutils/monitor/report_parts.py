"""The pieces of a run's report; each names what it did not find."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from nbutils.monitor.events import Event
from nbutils.monitor.figures import FIGURE_DPI
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import columns, format_duration, format_number

__all__ = [
    "event_table",
    "fact_table",
    "figure_gallery",
    "image_tag",
    "missing",
    "row_table",
    "test_metrics",
    "verdict",
]

_MAX_EVENTS = 200
_MAX_ENTRIES = 60
_MAX_DETAIL = 400


def missing(what: str) -> str:
    """One line that says what is not there."""
    return f'<p class="missing">Not available: {escape(what)}.</p>'


def verdict(directory: RunDirectory) -> str:
    """The preflight card as it was shown, or its verdict, or that there is none."""
    card = directory.path / "preflight.html"
    if card.exists():
        html = card.read_text(encoding="utf-8")
        if not html.lstrip().lower().startswith(("<!doctype", "<html")):
            return html
        source = escape(html, quote=True)
        return (
            f'<iframe sandbox srcdoc="{source}" title="preflight" '
            'style="width:100%;height:26em;border:0"></iframe>'
        )
    found = directory.read_json("preflight.json")
    if found is None:
        return missing("no preflight.html; the run was not checked before it started")
    return fact_table(found, "")


def row_table(rows: Sequence[Mapping[str, Any]], best_step: object) -> str:
    """One line per epoch; the best one is tinted and says so."""
    if not rows:
        return missing("no finished epoch in events.jsonl")
    names = columns(rows)
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in names)
    body = []
    for row in rows:
        is_best = best_step is not None and row.get("step") == best_step
        cells = "".join(
            f'<td class="n">{escape(format_number(row.get(name)))}</td>'
            for name in names
        )
        mark = "<td>best</td>" if is_best else "<td></td>"
        body.append(f"<tr{' class=best' if is_best else ''}>{cells}{mark}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}<th></th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def test_metrics(metrics: object) -> str:
    """Test numbers; nested lists become small tables."""
    if not metrics:
        return missing("no test_metrics in run.json; evaluate the test split")
    if not isinstance(metrics, Mapping):
        return f"<p>{escape(str(metrics))}</p>"
    return f'<div class="wide">{_mapping(metrics)}</div>'


test_metrics.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def figure_gallery(folder: Path) -> str:
    """Every PNG of the folder, inside the page, but the curves: those are drawn."""
    paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
    paths = [path for path in paths if path.name != "curves.png"]
    if not paths:
        return missing(f"no PNG in {folder.name}/")
    return "".join(
        f"<figure>{image_tag(path)}"
        f"<figcaption>{escape(path.name)}</figcaption></figure>"
        for path in paths
    )


def image_tag(path: Path) -> str:
    """A PNG file inside a page, as large as it was drawn at 100 points an inch."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big") * 100 // FIGURE_DPI
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<img alt="{escape(path.stem, quote=True)}" width="{width}" '
        f'style="max-width:100%;height:auto" src="data:image/png;base64,{data}">'
    )


def event_table(events: Sequence[Event], start_s: float) -> str:
    """Refusals, shortages, resumes, best checkpoints, messages and how it ended."""
    if not events:
        return "<p>None.</p>"
    cut = len(events) - _MAX_EVENTS
    shown = events[-_MAX_EVENTS:]
    note = f"<p>The first {cut} of {len(events)} are left out.</p>" if cut > 0 else ""
    rows = "".join(
        f'<tr><td class="n">{format_duration(event["time_s"] - start_s)}</td>'
        f'<td class="k">{escape(event["kind"])}</td>'
        f"<td>{escape(_details(event))}</td></tr>"
        for event in shown
        if "time_s" in event
    )
    began = datetime.fromtimestamp(start_s, timezone.utc)
    return (
        f"{note}<p>Times count from {began:%Y-%m-%d %H:%M:%S} UTC.</p>"
        '<div class="wide"><table><thead><tr><th class="n">time</th><th>event</th>'
        f"<th>details</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def fact_table(facts: Mapping[str, Any] | None, if_missing: str) -> str:
    """Names and values, nested ones as tables in tables."""
    return _mapping(facts) if facts else missing(if_missing)


def _details(event: Event) -> str:
    if event["kind"] == "message":
        return f"{event.get('level', 'info')}: {event.get('text', '')}"
    if event["kind"] == "watchdog":
        return f"{event.get('severity')} {event.get('id')}: {event.get('text', '')}"
    if event["kind"] == "rollback":
        to_step, reason = event.get("to_step"), event.get("reason", "")
        return f"at step {event.get('step')}, back to step {to_step}: {reason}"
    if event["kind"] == "checkpoint":
        mebibytes = (event.get("bytes") or 0) / 2**20
        size = f" ({mebibytes:,.1f} MiB)" if mebibytes else ""
        best = "best so far, " if event.get("best") else ""
        return f"{best}step {event.get('step')}: {event.get('path')}{size}"
    text = "  ".join(
        f"{name} {format_number(value)}"
        for name, value in event.items()
        if name not in ("time_s", "kind") and value is not None
    )
    return text if len(text) <= _MAX_DETAIL else text[:_MAX_DETAIL] + " …"


def _mapping(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{_value(_dated(name, value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _dated(name: object, value: object) -> object:
    """A point in time as a date; seconds since 1970 mean nothing to a reader."""
    is_time = str(name) == "time" or str(name).endswith("_s")
    if is_time and isinstance(value, (int, float)) and value > 1e9:
        return f"{datetime.fromtimestamp(value, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    return value


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return _mapping(value) if value else "-"
    if isinstance(value, list) and any(isinstance(item, list) for item in value):
        return _matrix(value)
    if isinstance(value, list):
        shown = [_value(item) for item in value[:_MAX_ENTRIES]]
        rest = len(value) - len(shown)
        more = f" and {rest} more" if rest else ""
        between = "" if any(isinstance(item, Mapping) for item in value) else ", "
        return between.join(shown) + more if value else "-"
    return escape(format_number(value))


def _matrix(rows: list[Any]) -> str:
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{_value(item)}</td>'
            for item in (row if isinstance(row, list) else [row])
        )
        + "</tr>"
        for row in rows[:_MAX_ENTRIES]
    )
    rest = len(rows) - _MAX_ENTRIES
    more = f"<p>and {rest} more rows</p>" if rest > 0 else ""
    return f"<table>{lines}</table>{more}"
