"""A run as one compact block of HTML: progress, curve, last epochs, what happened.

A pure function of :class:`RunView`, so that the live panel and a view rebuilt from
disk are the same picture. Everything in it is escaped.
"""

from __future__ import annotations

import math
import time
from html import escape
from pathlib import Path
from typing import Any

from nbutils.monitor.curves import svg_curve
from nbutils.monitor.events import Event
from nbutils.monitor.runview import RunView, columns, format_duration, format_number

__all__ = ["curves_html", "dashboard_html"]

_STYLE = """<style>
.nbu-dash{font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;
max-width:60em;border:1px solid rgba(128,128,128,.35);border-radius:8px;
padding:10px 14px;margin:4px 0}
.nbu-dash .bar{height:10px;border-radius:5px;background:rgba(128,128,128,.25);
overflow:hidden;margin:6px 0}
.nbu-dash .bar>div{height:100%;background:#0072b2}
.nbu-dash .end>div{background:#009e73}
.nbu-dash .facts{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:13px}
.nbu-dash .facts b{font-weight:650}
.nbu-dash table{border-collapse:collapse;font-size:13px;margin:8px 0 0}
.nbu-dash th,.nbu-dash td{text-align:right;padding:2px 0 2px 18px;
border-bottom:1px solid rgba(128,128,128,.22);font-variant-numeric:tabular-nums}
.nbu-dash th:first-child,.nbu-dash td:first-child{padding-left:0}
.nbu-dash .charts{display:flex;flex-wrap:wrap;gap:8px 16px;margin-top:8px}
.nbu-dash .notes{margin:6px 0 0;font-size:13px}
.nbu-dash .dim{opacity:.72;font-size:12.5px}
</style>"""
_ROWS = 8
_EVENTS = 6
_HIDDEN = ("step", "lr", "epoch")


def dashboard_html(view: RunView, charts: str, run_dir: str) -> str:
    """The whole block.

    Args:
        view: The run so far.
        charts: What :func:`curves_html` made; drawn less often than the rest.
        run_dir: Where the run lies on disk; named at the foot.
    """
    parts = [
        _head(view, run_dir),
        _bar(view),
        _facts(view),
        f'<div class="charts">{charts}</div>' if charts else "",
        _epochs(view),
        _notable(view),
        f'<div class="dim">On disk: {escape(run_dir)}. Lost this tab? '
        f"<code>nb.show_run({escape(repr(run_dir))})</code> shows it again.</div>",
    ]
    body = "\n".join(part for part in parts if part)
    return f'<section class="nbu-dash" aria-label="Run">{_STYLE}{body}</section>'


def curves_html(view: RunView, *, max_points: int = 110) -> str:
    """Loss and validation metrics over steps.

    Args:
        view: The run so far.
        max_points: Bound on the points of one line; keeps an update small.
    """
    drawn = []
    losses = {"train loss": _thinned(view.loss.points, max_points)}
    checked = [(row.get("step", 0), row["val_loss"]) for row in _rows_with_loss(view)]
    if checked:
        losses["val_loss"] = _thinned(checked, max_points)
    if len(losses["train loss"]) > 1:
        drawn.append(_curve(losses, "Loss", "step"))
    metrics = _metric_series(view, max_points)
    if any(len(points) > 1 for points in metrics.values()):
        title = next(iter(metrics)) if len(metrics) == 1 else "Validation"
        drawn.append(_curve(metrics, title, "step"))
    return "".join(drawn)


def _rows_with_loss(view: RunView) -> list[dict[str, Any]]:
    return [row for row in view.rows if isinstance(row.get("val_loss"), int | float)]


def _curve(series: dict[str, list[tuple[float, float]]], title: str, x: str) -> str:
    return svg_curve(series, title=title, x_label=x, y_label="", width=400, height=210)


def _metric_series(
    view: RunView, max_points: int
) -> dict[str, list[tuple[float, float]]]:
    """Validation numbers other than the loss; at most three lines."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in view.rows:
        for name, value in row.items():
            is_other = name.startswith("val") and name != "val_loss"
            if is_other and isinstance(value, int | float):
                series.setdefault(name, []).append((row["step"], float(value)))
    return {name: _thinned(series[name], max_points) for name in list(series)[:3]}


def _thinned(points: list[tuple[float, float]], most: int) -> list[Any]:
    """Evenly chosen points, the last one always among them."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) <= most:
        return finite
    stride = math.ceil(len(finite) / (most - 1))
    return [*finite[:-1:stride], finite[-1]]


def _head(view: RunView, run_dir: str) -> str:
    start, end = view.start, view.end
    name = escape(Path(run_dir).name)
    if end:
        mark = {"finished": "✓", "failed": "✗"}.get(str(end.get("status")), "•")
        reason = f"{end.get('status')}: {end.get('reason')}"
        return f"<strong>{mark} {name}</strong> ended, {escape(reason)}"
    if not start:
        return f"<strong>• {name}</strong> getting ready"
    facts = [start.get("device"), start.get("precision")]
    words = ", ".join(str(fact) for fact in facts if fact)
    return f"<strong>• {name}</strong> training on {escape(words)}"


def _bar(view: RunView) -> str:
    planned = view.start.get("planned_steps") or 0
    if not planned:
        return ""
    percent = min(100 * view.step / planned, 100)
    kind = "bar end" if view.end else "bar"
    label = f"{view.step:,} of {planned:,} steps"
    return (
        f'<div class="{kind}" role="progressbar" aria-valuenow="{percent:.0f}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="{label}">'
        f'<div style="width:{percent:.1f}%"></div></div>'
    )


def _facts(view: RunView) -> str:
    last, planned = view.last_step, view.start.get("planned_steps")
    of = f" / {planned:,}" if planned else ""
    facts = [("step", f"{view.step:,}{of}"), ("loss", _loss(view))]
    facts += [(n, format_number(v)) for n, v in list(view.metrics.items())[:3]]
    if "lr" in last:
        facts.append(("lr", f"{last['lr']:.2g}"))
    if last.get("samples_per_s"):
        facts.append(("samples/s", format_number(round(last["samples_per_s"]))))
    if view.num_refused:
        facts.append(("! refused", str(view.num_refused)))
    if view.end:
        facts.append(("took", format_duration(view.end.get("seconds", math.nan))))
    else:
        facts.append(("time left", format_duration(view.eta_s())))
    cells = "".join(
        f"<span>{escape(label)} <b>{escape(text)}</b></span>" for label, text in facts
    )
    return f'<div class="facts">{cells}</div>'


def _loss(view: RunView) -> str:
    return format_number(view.last_step.get("loss"))


def _epochs(view: RunView) -> str:
    rows = view.rows[-_ROWS:]
    if not rows:
        return ""
    names = ["epoch", *[key for key in columns(rows) if key not in _HIDDEN][:6]]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(_cell(row, name))}</td>" for name in names)
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    is_time = name == "seconds" and isinstance(value, int | float)
    return f"{value:.1f}" if is_time else format_number(value)


def _notable(view: RunView) -> str:
    """The last few things worth knowing; of the best checkpoints only the last."""
    events = [e for e in view.notable if e["kind"] not in ("run_end", "checkpoint")]
    dropped = max(len(events) - _EVENTS, 0)
    lines = [_sentence(event) for event in events[dropped:]]
    if view.best_checkpoint:
        lines.append(_sentence(view.best_checkpoint))
    if not lines:
        return ""
    items = "".join(f"<div>{line}</div>" for line in lines)
    note = f'<div class="dim">and {dropped} earlier events</div>' if dropped else ""
    return f'<div class="notes">{items}</div>{note}'


def _sentence(event: Event) -> str:
    """One event as one escaped line."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.get("time_s", 0)))
    step = f"step {format_number(event.get('step'))}"
    where = " in evaluation" if event.get("where") == "evaluate" else ""
    is_repeated = bool(event.get("is_repeated"))
    then = "tried once more" if is_repeated else f"batch now {event.get('micro_batch')}"
    texts = {
        "checkpoint": f"✓ best so far saved at {step}",
        "refused": f"! {step} refused before the weights changed: "
        f"loss {format_number(event.get('loss'))}, "
        f"gradient norm {format_number(event.get('grad_norm'))}",
        "oom": f"! out of memory at {step}{where}; {then}",
        "resume": f"resumed at {step} from {event.get('checkpoint')}",
        "stop": f"stopping at {step}: {event.get('reason')}",
        "rollback": f"! rolled back to step {event.get('to_step')}",
        "watchdog": f"! {event.get('id')}: {event.get('text')}",
        "message": f"{event.get('level', 'info')}: {event.get('text', '')}",
    }
    text = texts.get(str(event["kind"])) or str(event["kind"])
    return f'<span class="dim">{clock}</span> {escape(text[:300])}'
