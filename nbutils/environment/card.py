"""One-screen verdict cards, as HTML for notebooks and as text for terminals.

A card reads without colour (a symbol and a word mark each row), without a style sheet
(viewers that strip ``<style>`` still show headings, rows and pairs in order), and on
light and dark pages (text keeps the page's own colour, tints are translucent). It is
built of plain ``div`` and ``span``: notebooks put a style of their own on lists and
tables, which would tear the columns apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

__all__ = ["Row", "Status", "mark", "render_card", "render_text"]

Status = Literal["pass", "warn", "fail", "skip", "info"]

SYMBOLS: dict[str, str] = {
    "pass": "✓",
    "warn": "!",
    "fail": "✗",
    "skip": "–",
    "info": "i",
}

STYLE = """\
.nbu-card{font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;
max-width:68em;margin:4px 0;border:1px solid rgba(128,128,128,.35);
border-radius:8px;overflow:hidden}
.nbu-head{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 12px;
padding:9px 14px}
.nbu-title{font-weight:650;font-size:15px}
.nbu-sub{opacity:.8}
.nbu-mark{display:inline-block;min-width:5.4em;box-sizing:border-box;
padding:0 8px;border-radius:5px;font-weight:650;font-size:12.5px;
white-space:nowrap;background:rgba(128,128,128,.18)}
.nbu-row{padding:4px 14px;border-top:1px solid rgba(128,128,128,.2);
border-left:4px solid rgba(128,128,128,.45)}
.nbu-line{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:baseline}
.nbu-row>summary{cursor:pointer;list-style:none}
.nbu-row>summary::-webkit-details-marker{display:none}
.nbu-row>summary::after{content:"▸";order:1;opacity:.6;margin-left:auto}
.nbu-row[open]>summary::after{content:"▾"}
.nbu-row>summary:focus-visible{outline:2px solid currentColor;outline-offset:2px}
.nbu-text{flex:1;min-width:0;overflow-wrap:anywhere}
.nbu-pairs{display:grid;grid-template-columns:max-content minmax(0,1fr);
gap:1px 14px;margin:3px 0 4px 6em;font-size:13px}
.nbu-shown{order:2;flex:1 0 calc(100% - 6em);display:flex;flex-wrap:wrap;
gap:3px 18px;margin:0 0 2px 6em;font-size:13px;line-height:1.35}
.nbu-pair{flex:1 1 max(20em,calc(50% - 18px));display:flex;gap:12px;min-width:0}
.nbu-label{opacity:.75}
.nbu-shown .nbu-label{flex:none;width:4.8em}
.nbu-value{white-space:pre-wrap;overflow-wrap:anywhere;min-width:0;
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px}
.nbu-shown .nbu-value{max-height:8.5em;overflow:auto}
.nbu-group{padding-bottom:4px}
.nbu-inner{margin:4px 0 2px 1.2em;border-radius:6px;overflow:hidden}
.nbu-inner .nbu-row{border-left-width:3px;padding:2px 10px}
.nbu-pass{border-left-color:#009e73}.nbu-pass .nbu-mark{background:rgba(0,158,115,.24)}
.nbu-warn{border-left-color:#e69f00}.nbu-warn .nbu-mark{background:rgba(230,159,0,.3)}
.nbu-fail{border-left-color:#d55e00}.nbu-fail .nbu-mark{background:rgba(213,94,0,.34)}
.nbu-info{border-left-color:#3f8fc5}.nbu-info .nbu-mark{background:rgba(63,143,197,.26)}
.nbu-head{border-left:4px solid rgba(128,128,128,.45)}
.nbu-head.nbu-pass{border-left-color:#009e73;background:rgba(0,158,115,.1)}
.nbu-head.nbu-warn{border-left-color:#e69f00;background:rgba(230,159,0,.12)}
.nbu-head.nbu-fail{border-left-color:#d55e00;background:rgba(213,94,0,.13)}
.nbu-head.nbu-info{border-left-color:#3f8fc5;background:rgba(63,143,197,.1)}
@media(max-width:520px){.nbu-pairs{margin-left:0;grid-template-columns:1fr}
.nbu-shown{margin-left:0;flex-basis:100%}}"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a card and the pairs beneath it.

    Args:
        status: What the row's symbol and word say.
        title: The claim, in one sentence.
        detail_pairs: ``(label, text)``, such as ``("expected", "float32 (B, 3)")``.
        folded: Hide the pairs until the reader opens the row.
        shown_pairs: Pairs that are never hidden, side by side under the title.
        rows: Rows that the reader sees after opening this one; a terminal shows them
            only where all is unfolded.
    """

    status: Status
    title: str
    detail_pairs: Sequence[tuple[str, str]] = ()
    folded: bool = False
    shown_pairs: Sequence[tuple[str, str]] = ()
    rows: Sequence[Row] = ()


def mark(status: Status) -> str:
    """Symbol and word of a status.

    Example:
        >>> mark("fail")
        '✗ fail'
    """
    return f"{SYMBOLS[status]} {status}"


def render_card(
    title: str, verdict_status: Status, subtitle: str, rows: Iterable[Row]
) -> str:
    """A card as one HTML fragment; every text in it is escaped.

    Args:
        title: What was looked at.
        verdict_status: The outcome of the whole.
        subtitle: The outcome in one sentence.
        rows: Shown in the order given.
    """
    head = (
        f'<div class="nbu-head nbu-{verdict_status}">'
        f'<span class="nbu-mark">{mark(verdict_status)}</span> '
        f'<strong class="nbu-title">{escape(title)}</strong> '
        f'<span class="nbu-sub">{escape(subtitle)}</span></div>'
    )
    body = "\n".join(_row_html(row) for row in rows)
    return (
        f'<section class="nbu-card" aria-label="{escape(title)}">\n'
        f"<style>{STYLE}</style>\n{head}\n{body}\n</section>"
    )


def render_text(
    title: str,
    verdict_status: Status,
    subtitle: str,
    rows: Iterable[Row],
    *,
    unfold: bool = False,
) -> str:
    """The same card for a terminal; folded pairs are left out unless ``unfold``.

    Example:
        >>> pairs = [("expected", "(B, 3)"), ("actual", "(4, 3)")]
        >>> rows = [Row("pass", "Shapes", pairs)]
        >>> print(render_text("Preflight", "pass", "1 check", rows))
        ✓ pass  Preflight: 1 check
          ✓ pass  Shapes
                    expected  (B, 3)
                    actual    (4, 3)
    """
    separator = ": " if subtitle else ""
    lines = [f"{mark(verdict_status)}  {title}{separator}{subtitle}"]
    for row in rows:
        lines += _row_lines(row, "  ", unfold=unfold)
    return "\n".join(lines)


def _row_lines(row: Row, indent: str, *, unfold: bool) -> Iterator[str]:
    yield f"{indent}{mark(row.status)}  {row.title}"
    hidden = row.detail_pairs if unfold or not row.folded else ()
    yield from _pair_lines([*row.shown_pairs, *hidden], f"{indent}{'':8}")
    for inner in row.rows if unfold else ():
        yield from _row_lines(inner, f"{indent}  ", unfold=True)


def _pair_lines(pairs: Sequence[tuple[str, str]], indent: str) -> list[str]:
    """Pairs as aligned lines; further lines of a text keep its column."""
    width = max((len(label) for label, _ in pairs), default=0)
    hanging = f"\n{indent}{'':{width + 2}}"
    return [
        f"{indent}{label:<{width}}  {text.replace(chr(10), hanging)}"
        for label, text in pairs
    ]


def _row_html(row: Row) -> str:
    """One row: a plain block, or a fold when it asks for one and has pairs."""
    line = (
        f'<span class="nbu-mark">{mark(row.status)}</span> '
        f'<span class="nbu-text">{escape(row.title)}</span>{_shown_html(row)}'
    )
    classes = f"nbu-row nbu-{row.status}"
    pairs = _pairs_html(row.detail_pairs)
    if row.rows:
        inner = "\n".join(map(_row_html, row.rows))
        summary = f'<summary class="nbu-line">{line}</summary>'
        body = f'{pairs}<div class="nbu-inner">{inner}</div>'
        return f'<details class="{classes} nbu-group">{summary}{body}</details>'
    if row.folded and pairs:
        summary = f'<summary class="nbu-line">{line}</summary>'
        return f'<details class="{classes}">{summary}{pairs}</details>'
    return f'<div class="{classes}"><div class="nbu-line">{line}</div>{pairs}</div>'


def _shown_html(row: Row) -> str:
    """Pairs side by side; spans, since a summary may hold nothing bigger."""
    pairs = " ".join(
        f'<span class="nbu-pair">{_pair_html(pair, "span")}</span>'
        for pair in row.shown_pairs
    )
    return f' <span class="nbu-shown">{pairs}</span>' if pairs else ""


def _pairs_html(pairs: Sequence[tuple[str, str]]) -> str:
    """A two-column grid of label and text; empty when there are no pairs."""
    cells = "".join(_pair_html(pair, "div") for pair in pairs)
    return f'<div class="nbu-pairs">{cells}</div>' if cells else ""


def _pair_html(pair: tuple[str, str], tag: str) -> str:
    label, text = map(escape, pair)
    return (
        f'<{tag} class="nbu-label">{label}</{tag}> '
        f'<{tag} class="nbu-value">{text}</{tag}>'
    )
