"""The wizard's style sheet and its small pieces of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["STYLE", "banner_html", "title_html"]

STYLE = """<style>
.nbu-wiz{font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;
border:1px solid rgba(128,128,128,.38);border-radius:10px;overflow:hidden}
.nbu-formless{display:none}
.nbu-wiz .widget-label{text-align:left}
.nbu-wiz .widget-html-content,.nbu-wiz .jupyter-widgets-html-content{line-height:1.4}
.nbu-wiz .widget-checkbox .widget-label-basic{width:auto;gap:4px}
.nbu-wiztitle{font-size:17px;font-weight:650}
.nbu-step{opacity:.75;margin-left:10px}
.nbu-help{opacity:.72;font-size:13px}
.nbu-error{color:#c43d00;color:light-dark(#b83a00,#ff9d73);font-weight:600;
font-size:13px}
.nbu-moved{background:rgba(63,143,197,.22);border-radius:4px;padding:1px 6px;
font-size:12.5px;font-weight:600}
.nbu-alert{border-left:4px solid #d55e00;background:rgba(213,94,0,.14);
border-radius:4px;padding:8px 12px;margin:4px 0}
.nbu-alert p{margin:2px 0}
.nbu-alert ul{margin:4px 0 0;padding-left:20px}
.nbu-alert pre{overflow:auto;max-height:260px;font-size:12px}
.nbu-banner{border-left:4px solid rgba(128,128,128,.5);border-radius:4px;
background:rgba(128,128,128,.12);padding:5px 12px;margin:4px 0;
overflow-wrap:anywhere}
.nbu-banner.nbu-pending{border-left-color:#e69f00;background:rgba(230,159,0,.17)}
.nbu-banner.nbu-applied{border-left-color:#009e73;background:rgba(0,158,115,.14)}
.nbu-table{border-collapse:collapse;margin:6px 0 10px;font-size:13px}
.nbu-table th,.nbu-table td{text-align:left;padding:3px 16px 3px 8px;
border-bottom:1px solid rgba(128,128,128,.25);font-weight:400}
.nbu-table tr:first-child th{font-weight:650}
.nbu-table td:nth-child(2){font-family:ui-monospace,Menlo,Consolas,monospace;
font-weight:600}
.nbu-heading{font-weight:650;font-size:13.5px;margin-top:8px;opacity:.9}
.nbu-wiz details>summary{cursor:pointer}
.nbu-wiz h4{margin:14px 0 2px;font-size:14px}
.nbu-wiz .jupyter-button.mod-success{background:#2a7030;color:#fff}
.nbu-wiz .jupyter-button.mod-primary{background:#1767b8;color:#fff}
.nbu-wiz :focus-visible{outline:2px solid #3f8fc5;outline-offset:1px}
.nbu-hidden{position:absolute;width:1px;height:1px;overflow:hidden;
clip-path:inset(50%);white-space:nowrap}
.nbu-followed{border:1px dashed rgba(128,128,128,.6);border-radius:4px;
padding:0 5px;font-size:12.5px}
.nbu-remark{margin:3px 0;padding-left:10px;border-left:3px solid #e69f00;
font-size:13px}
.nbu-found{border:1px solid rgba(128,128,128,.3);border-radius:8px;
padding:8px 12px;margin:4px 0 6px}
.nbu-foundhead{font-weight:650;margin-bottom:4px}
.nbu-advice{margin:2px 0 6px;padding-left:10px;border-left:3px solid #d55e00}
.nbu-advice ul{margin:2px 0;padding-left:20px}
.nbu-facts{display:grid;grid-template-columns:max-content minmax(0,1fr);
gap:1px 16px;margin:2px 0 4px;font-size:13px}
.nbu-fact{opacity:.75}
.nbu-facts>span{overflow-wrap:anywhere}
.nbu-thumbs{display:flex;flex-wrap:wrap;gap:8px;margin:8px 0 4px}
.nbu-thumbs figure{margin:0;width:56px;text-align:center}
.nbu-thumbs img{width:56px;height:56px;object-fit:contain;border-radius:4px;
background:rgba(128,128,128,.18);image-rendering:auto}
.nbu-thumbs figcaption{font-size:11.5px;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}
.nbu-bars{width:100%;max-width:520px;border-collapse:collapse;font-size:12.5px;
margin-top:6px}
.nbu-bars caption{text-align:left;opacity:.8;padding-bottom:2px}
.nbu-bars th{font-weight:400;text-align:right;padding:0 8px 0 0;max-width:160px;
overflow:hidden;text-overflow:ellipsis;white-space:nowrap;width:1%}
.nbu-bars td{padding:0 0 0 8px;white-space:nowrap;text-align:right;width:1%}
.nbu-bars .nbu-barcell{width:auto;padding:0}
.nbu-bar{display:block;height:10px;border-radius:2px;background:#3f8fc5}
.nbu-wiz .nbu-diff td{font:inherit;font-size:13px}
.nbu-wiz .nbu-diff td:last-child{font-weight:600}
.nbu-compare th{white-space:nowrap}
.nbu-wiz .nbu-compare{width:100%;margin:0 0 6px}
.nbu-wiz .nbu-compare td,.nbu-wiz .nbu-compare th{padding:4px 12px 4px 0;
vertical-align:top;font:inherit;font-size:13px}
.nbu-wiz .nbu-compare td:nth-child(2){overflow-wrap:anywhere;min-width:130px}
.nbu-wiz .nbu-compare tr:first-child th{font-weight:650}
.nbu-compare small{display:block;font-size:12px;opacity:.75}
.nbu-copy{margin:4px 0 12px}
.nbu-copyhead{display:flex;align-items:baseline;gap:12px;margin:10px 0 4px;
font-weight:650}
.nbu-copy button{font:inherit;font-weight:400;font-size:12.5px;padding:1px 10px;
border:1px solid rgba(128,128,128,.55);border-radius:4px;background:transparent;
color:inherit;cursor:pointer}
.nbu-copy textarea{box-sizing:border-box;width:100%;resize:vertical;
border:1px solid rgba(128,128,128,.35);border-radius:6px;padding:8px 10px;
background:rgba(128,128,128,.1);color:inherit;tab-size:4;
font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace}
</style>"""


def title_html(steps: Sequence[str], current: int, marks: Sequence[str]) -> str:
    """The title, where the user is, and the steps as a list for screen readers."""
    here = f"Step {current + 1} of {len(steps)}: {steps[current]}"
    items = "".join(
        f"<li{_CURRENT if number == current else ''}>{escape(step)}"
        f"{_SAID.get(marks[number], '')}</li>"
        for number, step in enumerate(steps)
    )
    return (
        f'{STYLE}<span role="heading" aria-level="2" class="nbu-wiztitle">'
        f'Set up the run</span><span role="status" class="nbu-step">{escape(here)}'
        '</span><nav class="nbu-hidden" aria-label="Steps of the set-up"><ol>'
        f"{items}</ol></nav>"
    )


_CURRENT = ' aria-current="step"'
_SAID = {"!": ", needs a change", "✓": ", seen"}


def banner_html(pending: list[str], applied: str) -> str:
    """Whether what is on the form is what ``wizard.config`` holds.

    Args:
        pending: What is not applied, in words.
        applied: What was applied and where it is saved; empty: nothing yet.
    """
    if pending:
        few = ", ".join(pending[:6]) + (", …" if len(pending) > 6 else "")
        noun = "change" if len(pending) == 1 else "changes"
        return (
            f'<div role="status" class="nbu-banner nbu-pending"><strong>• '
            f"{len(pending)} unapplied {noun}</strong>: {escape(few)}</div>"
        )
    if applied:
        return (
            f'<div role="status" class="nbu-banner nbu-applied"><strong>✓ Applied'
            f"</strong>: {escape(applied)}</div>"
        )
    return (
        '<div role="status" class="nbu-banner">Nothing changed yet: '
        "<code>wizard.config</code> holds the values shown here.</div>"
    )
