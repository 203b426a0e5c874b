"""The wizard's style sheet and its small pieces of HTML."""

from __future__ import annotations

from html import escape

__all__ = ["STYLE", "banner_html", "title_html"]

STYLE = """<style>
.nbu-wiz{font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;
border:1px solid rgba(128,128,128,.38);border-radius:10px;overflow:hidden}
.nbu-wiz .widget-label{text-align:left}
.nbu-wiz .widget-html-content,.nbu-wiz .jupyter-widgets-html-content{line-height:1.4}
.nbu-wiz .widget-checkbox .widget-label-basic{width:auto;gap:4px}
.nbu-title{font-size:17px;font-weight:650}
.nbu-step{opacity:.75;margin-left:10px}
.nbu-help{opacity:.72;font-size:13px}
.nbu-error{color:#c43d00;color:light-dark(#b83a00,#ff9d73);font-weight:600;
font-size:13px}
.nbu-moved{background:rgba(63,143,197,.22);border-radius:4px;padding:1px 6px;
font-size:12.5px;font-weight:600}
.nbu-alert{border-left:4px solid #d55e00;background:rgba(213,94,0,.14);
border-radius:4px;padding:8px 12px;margin:4px 0}
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
.nbu-group{font-weight:650;font-size:13.5px;margin-top:8px;opacity:.9}
.nbu-wiz pre.nbu-code{margin:4px 0 8px;
user-select:all;background:rgba(128,128,128,.14);border-radius:6px;
padding:10px 12px;font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;
white-space:pre-wrap;overflow-wrap:anywhere}
.nbu-wiz details>summary{cursor:pointer}
.nbu-wiz h4{margin:14px 0 2px;font-size:14px}
</style>"""


def title_html(step: str, number: int, num_steps: int) -> str:
    """The title and where the user is."""
    return (
        f'{STYLE}<span class="nbu-title">Set up the run</span>'
        f'<span class="nbu-step">Step {number} of {num_steps}: {escape(step)}</span>'
    )


def banner_html(pending: list[str], applied: str) -> str:
    """Whether what is on the form is what ``wizard.config`` holds.

    Args:
        pending: Leaves whose answer is not applied.
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
