"""``report.html``: one file about one run, made from its directory alone.

It needs no network and runs no script: its content policy forbids both, so that a
report about a stranger's run directory is safe to open.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.curves import svg_curve
from nbutils.monitor.record import RunRecord
from nbutils.monitor.report_parts import (
    event_table,
    fact_table,
    figure_gallery,
    missing,
    row_table,
    test_metrics,
    verdict,
)
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import NO_METRIC, format_duration, format_number

__all__ = ["render_report", "write_report"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """
:root{color-scheme:light dark;--line:rgba(128,128,128,.3)}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;margin:0 auto;
max-width:68em;padding:1.5em 1.2em 4em}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:2em 0 .5em}
.sub{opacity:.75;margin:.1em 0 1em}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9em,1fr));gap:.6em}
.tile{border:1px solid var(--line);border-radius:8px;padding:.5em .8em}
.tile b{display:block;font-size:1.25em;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
.tile span{opacity:.75;font-size:.85em}
.curves{display:flex;flex-wrap:wrap;gap:1em}
.wide{overflow-x:auto;max-height:34em;overflow-y:auto}
table{border-collapse:collapse;font-size:.88em;font-variant-numeric:tabular-nums}
th,td{padding:.2em .8em;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top;overflow-wrap:anywhere}
th{font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
td.k{white-space:nowrap}
tr.best td{background:rgba(0,158,115,.16)}
img{max-width:100%;height:auto;background:#fff;border-radius:6px}
.figures{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}
figure{margin:0 0 1.2em}figcaption{opacity:.75;font-size:.85em}
.missing{opacity:.75;font-style:italic}
@media print{.wide{max-height:none}}
"""

_DRAWN_ELSEWHERE = (*NO_METRIC, "train_loss", "val_loss")


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into the run directory and return its path.

    Pieces that the directory lacks are named in the report, not left out silently.

    Raises:
        EnvironmentProblem: There is no such folder, or a file in it is damaged.
    """
    directory = RunDirectory(run_dir)
    if not directory.path.is_dir():
        raise EnvironmentProblem(
            f"There is no folder {directory.path}; expected a run directory. Pass the "
            "folder that the run printed, for example runs/<name>."
        )
    return directory.write_text("report.html", render_report(directory))


def render_report(directory: RunDirectory) -> str:
    """The report as one HTML document."""
    record = RunRecord.read(directory.path)
    name = escape(record.name)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Run {name}</title><style>{_STYLE}</style></head><body>\n"
        f"{''.join(_header(record))}\n{''.join(_sections(record, directory))}\n"
        "</body></html>\n"
    )


def _header(record: RunRecord) -> Iterator[str]:
    start, best = record.view.start, record.best
    yield f"<h1>Run {escape(record.name)}</h1>"
    recipe = record.settings.get("recipe", ("", ""))[0]
    subject = f"{recipe} · " if recipe not in ("", "null") else ""
    yield f'<p class="sub">{escape(subject + str(record.path.resolve()))}</p>'
    metric = f"best {best['metric']}" if best else "best"
    at = f" at step {format_number(best.get('step'))}" if best else ""
    planned = start.get("planned_steps")
    tiles = [
        ("how it ended", record.stop_reason),
        (metric + at, format_number(best.get("value")) if best else "not recorded"),
        (
            f"steps of {format_number(planned)} planned" if planned else "steps",
            format_number(record.view.step),
        ),
        ("duration", format_duration(record.seconds)),
        ("parameters", format_number(start.get("num_parameters"))),
        ("device, precision", _machine(start)),
    ]
    tiles[2:2] = _test_tile(record, best.get("metric"))
    if record.view.num_refused:
        tiles.append(("updates refused", format_number(record.view.num_refused)))
    if record.view.num_resumes:
        tiles.append(("resumes", format_number(record.view.num_resumes)))
    cells = "".join(
        f'<div class="tile"><b>{escape(text)}</b><span>{escape(label)}</span></div>'
        for label, text in tiles
    )
    yield f'<div class="tiles">{cells}</div>'


def _test_tile(record: RunRecord, monitored: object) -> list[tuple[str, str]]:
    """The test number beside the one of validation, if both are known."""
    name = str(monitored).removeprefix("val_")
    found = record.run.get("test_metrics")
    value = found.get(name) if isinstance(found, dict) else None
    return [] if value is None else [(f"test {name}", format_number(value))]


def _machine(start: dict[str, Any]) -> str:
    known = [str(start[key]) for key in ("device", "precision") if start.get(key)]
    return ", ".join(known) or "-"


def _sections(record: RunRecord, directory: RunDirectory) -> Iterator[str]:
    view, path = record.view, directory.path
    best_step = record.best.get("step")
    yield "<h2>Checks before the run</h2>" + verdict(directory)
    yield "<h2>Test</h2>" + test_metrics(record.run.get("test_metrics"))
    yield "<h2>Curves</h2>" + _curves(record)
    gallery = figure_gallery(directory.figures_dir)
    yield f'<h2>Figures</h2><div class="figures">{gallery}</div>'
    yield "<h2>Epochs</h2>" + row_table(view.rows, best_step)
    yield "<h2>Settings that are not default</h2>" + _settings(record)
    yield "<h2>Events that matter</h2>" + event_table(view.notable, view.first_time_s)
    yield "<h2>Machine</h2>" + fact_table(
        directory.read_json("environment.json"), f"no environment.json in {path}"
    )
    yield "<h2>Record</h2>" + fact_table(
        {k: v for k, v in record.run.items() if k != "test_metrics"},
        f"no run.json in {path}",
    )


def _curves(record: RunRecord) -> str:
    view = record.view
    if not view.loss.points and not view.rows:
        return missing("no steps and no epochs in events.jsonl")
    loss = {"step": view.loss.points} if view.loss.points else {}
    for name in ("train_loss", "val_loss"):
        if points := _column(view.rows, name):
            loss[name] = points
    drawn = [svg_curve(loss, title="Loss", x_label="step", muted="step")]
    fractions: dict[str, list[tuple[float, float]]] = {}
    names = dict.fromkeys(name for row in view.rows for name in row)
    for name in names:
        points = _column(view.rows, name)
        if name in _DRAWN_ELSEWHERE or not points:
            continue
        if all(0 <= y <= 1 for _, y in points) and len(fractions) < 6:
            fractions[name] = points
        else:
            drawn.append(svg_curve({name: points}, title=name, x_label="step"))
    if fractions:
        title = "Metrics" if len(fractions) > 1 else next(iter(fractions))
        drawn.insert(1, svg_curve(fractions, title=title, x_label="step"))
    if view.lr.points:
        drawn.append(
            svg_curve({"lr": view.lr.points}, title="Learning rate", x_label="step")
        )
    return f'<div class="curves">{"".join(drawn)}</div>'


def _column(rows: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [
        (row.get("step", row["epoch"]), row[name])
        for row in rows
        if isinstance(row.get(name), (int, float)) and not isinstance(row[name], bool)
    ]


def _settings(record: RunRecord) -> str:
    if not record.settings:
        return missing("no config.yaml in the run directory")
    changed = {
        name: (value, origin)
        for name, (value, origin) in record.settings.items()
        if origin
    }
    if not changed:
        return "<p>All settings are default.</p>"
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td>"
        f"<td>{escape(origin)}</td></tr>"
        for name, (value, origin) in changed.items()
    )
    return (
        "<table><thead><tr><th>setting</th><th>value</th><th>from</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
