"""A comparison as HTML: for a notebook, and as a page of its own."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from nbutils.monitor.comparison.cells import (
    Table,
    differences_table,
    tables_of,
    title_of,
)
from nbutils.monitor.comparison.judging import Judgement
from nbutils.monitor.comparison.lines import mean_points, points_of, strip_svg
from nbutils.monitor.curves import svg_curve
from nbutils.monitor.texttable import html_table

if TYPE_CHECKING:
    from nbutils.monitor.comparison.result import Comparison

__all__ = ["comparison_html", "whole_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_PAGE = """
:root{color-scheme:light dark}
body{margin:0 auto;max-width:72em;padding:1.2em}
"""
_FRAME = (
    "font:14px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;max-width:70em;"
    "padding:10px 14px;border:1px solid rgba(128,128,128,.35);border-radius:8px;"
    "margin:4px 0"
)
_NOTES = {
    "fail": ("✗", "#d55e00", "rgba(213,94,0,.16)", "font-weight:600"),
    "warn": ("!", "#e69f00", "rgba(230,159,0,.14)", ""),
    "info": ("i", "#3f8fc5", "rgba(63,143,197,.1)", ""),
}
_VERDICTS = {
    "significant": "rgba(0,158,115,.24)",
    "not significant": "rgba(128,128,128,.2)",
    "too few seeds": "rgba(230,159,0,.3)",
    "no scatter known": "rgba(230,159,0,.3)",
}
_MAX_CURVES = 6
_MAX_LABELS = 48
"""Characters that a legend has room for."""


def comparison_html(found: Comparison) -> str:
    """The comparison as one fragment; every text in it is escaped."""
    first, *rest = tables_of(found)
    parts = [f'<strong style="font-size:15px">{escape(title_of(found))}</strong>']
    parts += [_note(severity, text) for severity, text in found.notes]
    parts.append(_figures(found))
    parts.append(_table(first))
    table = differences_table(found)
    if table is not None:
        parts.append(_table(table))
    elif found.judgements:
        parts.append(_heading("Differences"))
        parts += [_judgement(each) for each in found.judgements]
    parts += [_table(table) for table in rest]
    return f'<section style="{_FRAME}">{"".join(parts)}</section>'


def whole_page(found: Comparison) -> str:
    """The same as one document, whose policy forbids scripts and the network."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title_of(found))}</title><style>{_PAGE}</style></head><body>\n"
        f"{comparison_html(found)}\n</body></html>\n"
    )


def _heading(text: str) -> str:
    return f'<div style="font-weight:600;margin:12px 0 2px">{escape(text)}</div>'


def _note(severity: str, text: str) -> str:
    sign, edge, tint, more = _NOTES[severity]
    role = ' role="alert"' if severity == "fail" else ""
    return (
        f'<div{role} style="border-left:4px solid {edge};background:{tint};'
        f'border-radius:4px;padding:4px 10px;margin:5px 0;{more}">{sign}&ensp;'
        f"{escape(text)}</div>"
    )


def _judgement(found: Judgement) -> str:
    tint = _VERDICTS[found.verdict]
    return (
        '<div style="margin:4px 0"><span style="display:inline-block;padding:0 8px;'
        f'border-radius:5px;font-weight:600;font-size:12.5px;background:{tint}">'
        f"{escape(found.verdict)}</span> {escape(found.text)}</div>"
    )


def _table(table: Table) -> str:
    parts = [_heading(table.title)]
    if table.rows:
        parts.append(html_table(table.names, table.rows, right=table.right))
    if table.note:
        parts.append(f'<div style="opacity:.75">{escape(table.note)}</div>')
    return "".join(parts)


def _figures(found: Comparison) -> str:
    """Curves of the metric and of the training loss, and the values of each seed."""
    drawn = []
    more = len(found.group_list) - _MAX_CURVES
    of = (
        f", first {_MAX_CURVES} of {len(found.group_list)} settings" if more > 0 else ""
    )
    for metric in dict.fromkeys((found.metric, "train_loss")):
        if series := _series(found, metric):
            mean = ", mean of seeds" if _is_repeated(found) else ""
            title = f"{metric}{mean}{of}"
            drawn.append(svg_curve(series, title=title, x_label="step"))
    if _is_repeated(found):
        drawn.append(strip_svg(found.group_list, found.metric))
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:12px;margin:8px 0">'
        f"{''.join(drawn)}</div>"
    )


def _is_repeated(found: Comparison) -> bool:
    return any(group.n > 1 for group in found.group_list)


def _series(found: Comparison, metric: str) -> dict[str, list[tuple[float, float]]]:
    """A curve for each group, its mean where it has seeds; not more than are told."""
    shown = found.group_list[:_MAX_CURVES]
    fits = sum(len(group.label) for group in shown) <= _MAX_LABELS
    series: dict[str, list[tuple[float, float]]] = {}
    for group in shown:
        curves = [points for run in group.runs if (points := points_of(run, metric))]
        if curves:
            name = group.label if fits else group.label.partition(":")[0]
            series[name] = mean_points(curves)
    return series
