"""A run as one compact block of HTML: progress, curves, last epochs, what happened.

Pure functions of :class:`RunView`, so that the live panel and a view rebuilt from
disk are the same picture. Everything in it is escaped. Three parts that change at
different rates: a panel sends only those that changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nbutils.monitor.about import About
from nbutils.monitor.charts import curves_html
from nbutils.monitor.events import Event
from nbutils.monitor.facts import (
    best_of,
    headline,
    machine_facts,
    progress_facts,
    progress_fraction,
    status_of,
)
from nbutils.monitor.runview import RunView, columns, format_number
from nbutils.monitor.sentences import mark, sentence

__all__ = [
    "STYLE",
    "Parts",
    "charts_html",
    "dashboard_html",
    "head_html",
    "notes_html",
    "render",
]

STYLE = """<style>
.nbu-dash{font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;
max-width:860px;box-sizing:border-box;border:1px solid rgba(128,128,128,.38);
border-radius:10px;padding:12px 16px;margin:4px 0}
.nbu-dash .widget-html-content,.nbu-dash .jupyter-widgets-html-content{
line-height:1.45}
.nbu-dash .row{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline}
.nbu-dash .name{font-size:16px;font-weight:650}
.nbu-dash .state{font-weight:650;border:1px solid rgba(128,128,128,.6);
border-radius:10px;padding:0 9px;white-space:nowrap}
.nbu-dash .dim{opacity:.74;font-size:12.5px}
.nbu-dash .bar{height:8px;border-radius:4px;background:rgba(128,128,128,.28);
overflow:hidden;margin:8px 0 3px}
.nbu-dash .bar>div{height:100%;background:#0072b2;border-radius:4px}
.nbu-dash .end>div{background:#009e73}
.nbu-dash .tiles{display:flex;flex-wrap:wrap;gap:6px 22px;margin:10px 0 4px}
.nbu-dash .tiles span{display:block;font-size:12px;opacity:.74}
.nbu-dash .tiles b{font-size:17px;font-weight:600;
font-variant-numeric:tabular-nums}
.nbu-dash .charts{display:flex;flex-wrap:wrap;gap:6px 10px;margin-top:6px}
.nbu-dash svg{max-width:100%;height:auto;font:11px system-ui,sans-serif}
.nbu-dash .t{font-weight:600;font-size:13px}
.nbu-dash table{color:inherit;border-collapse:collapse;font-size:13px;margin:6px 0 2px}
.nbu-dash th,.nbu-dash td{text-align:right;padding:2px 0 2px 20px;
font-variant-numeric:tabular-nums;border:0}
.nbu-dash th{font-weight:600;border-bottom:1px solid rgba(128,128,128,.45)}
.nbu-dash th:first-child,.nbu-dash td:first-child{padding-left:0}
.nbu-dash .notes{margin:6px 0;font-size:13px;overflow-wrap:anywhere}
.nbu-dash code{user-select:all;background:rgba(128,128,128,.16);border-radius:4px;
padding:0 4px;font-size:12px}
</style>"""
MAX_BYTES = 9_800
"""Bound on what is sent at once while a run goes on."""
FINAL_BYTES = 30_000
"""Bound on a drawing that is sent once and kept."""

_ROWS = 8
_EVENTS = 6
_COLUMNS = 7
_NAME_CHARS = 24
_TEXT_CHARS = 160
_NO_COLUMN = ("step", "lr", "epoch")
_TOLD = (
    *("resume", "refused", "rollback", "oom", "watchdog", "message", "alert"),
    *("stop", "published"),
)
"""Kinds of events with a line of their own; checkpoints are told at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A dashboard in pieces: what changes often, the curves, and the rest."""

    head: str
    charts: str
    notes: str

    def joined(self) -> str:
        """The whole block, with its style."""
        body = "".join(part for part in (self.head, self.charts, self.notes) if part)
        return f'<section class="nbu-dash" aria-label="Run">{STYLE}{body}</section>'


def render(
    view: RunView,
    about: About,
    life: str = "",
    hint: str = "",
    max_bytes: int = MAX_BYTES,
) -> Parts:
    """All three parts of a run as it stands; with their style, ``max_bytes``."""
    head, notes = head_html(view, about, life), notes_html(view, about, hint)
    charts = charts_html(view, about, head, notes, max_bytes)
    return Parts(head=head, charts=charts, notes=notes)


def dashboard_html(view: RunView, about: About, life: str = "", hint: str = "") -> str:
    """The whole block as one piece of HTML that needs no script, in full detail.

    Args:
        view: The run so far.
        about: What stands beside its events.
        life: ``"killed"``, where no process holds a run that has not ended.
        hint: HTML at the foot: how to stop the run, or to come back to it.
    """
    return render(view, about, life, hint, FINAL_BYTES).joined()


def head_html(view: RunView, about: About, life: str = "") -> str:
    """Name, state, progress and the numbers of the moment."""
    state, reason = status_of(view, life)
    what = " · ".join(_what(view, about))
    more = f"<span>{escape(_clip(reason, 200))}</span>" if reason else ""
    is_live = view.start and not view.end
    at = f"as of {_clock({'time_s': view.last_time_s})}" if is_live else ""
    as_of = f'<span class="dim">{at}</span>' if at else ""
    return (
        f'<div class="row"><span class="name">{escape(about.name)}</span>'
        f'<span class="state">{escape(state)}</span>{more}{as_of}</div>'
        f'<div class="dim">{escape(what)}</div>'
        f"{_bar(view)}{_row(progress_facts(view, life))}"
        f"{_tiles(headline(view, about) if view.last_step else [])}{_machine(view)}"
    )


def notes_html(view: RunView, about: About, hint: str = "") -> str:
    """The last epochs, what happened, and where everything lies."""
    foot = f"Files: <code>{escape(str(about.path))}</code>"
    foot += f". {hint}" if hint else ""
    return f'{_epochs(view, about)}{_notable(view)}<div class="dim">{foot}</div>'


def charts_html(
    view: RunView, about: About, head: str, notes: str, max_bytes: int = MAX_BYTES
) -> str:
    """The curves, in the room that the other parts leave of ``max_bytes``."""
    room = max_bytes - len((STYLE + head + notes).encode()) - 200
    return curves_html(view, about, room)


def _what(view: RunView, about: About) -> list[str]:
    start = view.start
    parameters = start.get("num_parameters")
    found = [
        about.recipe or about.task,
        str(start.get("device") or ""),
        str(start.get("precision") or ""),
        f"{_count(parameters)} parameters" if parameters else "",
        f"{view.num_resumes} × resumed" if view.num_resumes else "",
        about.verdict,
        f"W&B {about.url}" if about.url else "",
    ]
    return [_clip(part, 90) for part in found if part]


def _count(number: float) -> str:
    """A number of parameters as it is said: 178, 85.8 M."""
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:,}"


def _bar(view: RunView) -> str:
    fraction = progress_fraction(view)
    if math.isnan(fraction):  # no plan
        return ""
    planned = view.start["planned_steps"]
    label = f"{view.step:,} of {planned:,} steps"
    kind = "bar end" if view.end else "bar"
    return (
        f'<div class="{kind}" role="progressbar" aria-valuenow="{100 * fraction:.0f}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="Progress" '
        f'aria-valuetext="{label}"><div style="width:{100 * fraction:.1f}%"></div>'
        "</div>"
    )


def _row(words: Sequence[str]) -> str:
    cells = "".join(f"<span>{escape(word)}</span>" for word in words)
    return f'<div class="row">{cells}</div>'


def _tiles(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    cells = "".join(
        f"<div><span>{escape(_clip(label, _NAME_CHARS))}</span>"
        f"<b>{escape(text)}</b></div>"
        for label, text in facts
    )
    return f'<div class="tiles">{cells}</div>'


def _machine(view: RunView) -> str:
    facts = machine_facts(view)
    if not facts:
        return ""
    words = [f"{label} {text}" for label, text in facts]
    cells = "".join(f"<span>{escape(word)}</span>" for word in words)
    return f'<div class="row dim">{cells}</div>'


def _epochs(view: RunView, about: About) -> str:
    rows = view.rows[-_ROWS:]
    if not rows:
        return ""
    names = [key for key in columns(rows) if key not in _NO_COLUMN]
    names = ["epoch", *names[:_COLUMNS]]
    head = "".join(
        f'<th scope="col">{escape(_clip(name, _NAME_CHARS))}</th>' for name in names
    )
    best_epoch = best_of(view, about).get("epoch")
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(_cell(row, name, best_epoch))}</td>" for name in names)
        + "</tr>"
        for row in rows
    )
    dropped = len(view.rows_by_epoch) - len(rows)
    note = f'<div class="dim">and {dropped} epochs before</div>' if dropped else ""
    return f"<table><tr>{head}</tr>{body}</table>{note}"


def _cell(row: dict[str, Any], name: str, best_epoch: object) -> str:
    value = row.get(name)
    if name == "epoch" and value is not None and value == best_epoch:
        return f"best ✓ {value}"
    if name == "seconds" and isinstance(value, (int, float)):
        return f"{value:.1f}"
    return format_number(value)


def _notable(view: RunView) -> str:
    """The last few things worth knowing; of the best checkpoints only the last."""
    events: list[Event] = []
    for event in reversed(view.notable):
        if event["kind"] in _TOLD:
            events.insert(0, event)
        if len(events) == _EVENTS:
            break
    lines = [_line(event) for event in events]
    if view.best_checkpoint:
        lines.append(_line(view.best_checkpoint))
    saved = view.last_checkpoint
    if saved.get("step") != view.best_checkpoint.get("step"):
        text = f"✓ saved at step {format_number(saved.get('step'))}"
        lines.append(f'<span class="dim">{_clock(saved)}</span> {text}')
    if not lines:
        return ""
    dropped = sum(view.counts[kind] for kind in _TOLD) - len(events)
    note = f'<div class="dim">and {dropped} events before</div>' if dropped > 0 else ""
    items = "".join(f"<div>{line}</div>" for line in lines)
    return f'<div class="notes" role="log" aria-label="Events">{note}{items}</div>'


def _line(event: Event) -> str:
    text = f"{mark(event)} {_clip(sentence(event) or str(event['kind']), _TEXT_CHARS)}"
    return f'<span class="dim">{_clock(event)}</span> {escape(text)}'


def _clock(event: Event) -> str:
    return time.strftime("%H:%M:%S", time.localtime(event.get("time_s", 0)))


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
