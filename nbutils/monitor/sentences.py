"""What an event says, as one line: the same words in every view."""

from __future__ import annotations

import math

from nbutils.monitor.events import Event
from nbutils.monitor.runview import format_duration, format_number

__all__ = ["mark", "sentence"]

_BAD = ("refused", "oom", "rollback", "watchdog")
_GOOD = ("checkpoint", "published")


def mark(event: Event) -> str:
    """A sign that tells good from bad without colour: ``✓``, ``!`` or ``•``."""
    kind = event["kind"]
    if kind in _GOOD or (kind == "run_end" and event.get("status") == "finished"):
        return "✓"
    is_bad = kind in _BAD or event.get("status") == "failed"
    return "!" if is_bad or event.get("level") in ("warning", "error") else "•"


def sentence(event: Event) -> str:
    """What an event other than a step or an epoch says; empty: nothing.

    Example:
        >>> sentence({"kind": "stop", "step": 12, "reason": "time"})
        'stopping at step 12: time'
    """
    tell = _SENTENCES.get(event["kind"])
    return tell(event) if tell is not None else ""


def _run_start(event: Event) -> str:
    get = event.get
    reason = f" ({get('precision_reason')})" if get("precision_reason") else ""
    return (
        f"run {get('run_id')}  {format_number(get('num_parameters'))} parameters  "
        f"{get('device')}  {get('precision')}{reason}  "
        f"{format_number(get('planned_steps'))} steps planned"
    )


def _resume(event: Event) -> str:
    return f"resumed at step {event.get('step')} from {event.get('checkpoint')}"


def _refused(event: Event) -> str:
    """A refused step, where its first bad value arose, and where its batch lies."""
    loss, norm = (format_number(event.get(key)) for key in ("loss", "grad_norm"))
    text = (
        f"step {event.get('step')} refused before the weights changed: loss {loss}, "
        f"grad_norm {norm}"
    )
    if event.get("settling_scale") is not None:
        return f"{text}; the loss scale settles"
    saved = f"; batch saved: {event['batch_file']}" if event.get("batch_file") else ""
    found = f"; {event['culprit']}" if event.get("culprit") else ""
    return f"{text}{saved}{found}"


def _oom(event: Event) -> str:
    where = " in evaluation" if event.get("where") == "evaluate" else ""
    is_repeated = event.get("is_repeated")
    then = "tried once more" if is_repeated else f"batch now {event.get('micro_batch')}"
    return f"out of memory at step {event.get('step')}{where}; {then}"


def _rollback(event: Event) -> str:
    return f"rolled back to step {event.get('to_step')}: {event.get('reason')}"


def _watchdog(event: Event) -> str:
    return f"{event.get('severity', 'warning')} {event.get('id')}: {event.get('text')}"


def _message(event: Event) -> str:
    return f"{event.get('level', 'info')}: {event.get('text')}"


def _alert(event: Event) -> str:
    parts = [event.get("level", "info"), event.get("title"), event.get("text")]
    return ": ".join(str(part) for part in parts if part)


def _checkpoint(event: Event) -> str:
    if not event.get("best"):
        return ""
    return f"best so far, saved at step {format_number(event.get('step'))}"


def _published(event: Event) -> str:
    return f"published: {event.get('url') or event.get('repo_id') or 'done'}"


def _stop(event: Event) -> str:
    return f"stopping at step {event.get('step')}: {event.get('reason')}"


def _run_end(event: Event) -> str:
    took = format_duration(event.get("seconds") or math.nan)
    return (
        f"run ended: {event.get('status')}, {event.get('reason')}, "
        f"step {event.get('step')}, {took}"
    )


_SENTENCES = {
    "run_start": _run_start,
    "resume": _resume,
    "refused": _refused,
    "oom": _oom,
    "rollback": _rollback,
    "watchdog": _watchdog,
    "message": _message,
    "alert": _alert,
    "checkpoint": _checkpoint,
    "published": _published,
    "stop": _stop,
    "run_end": _run_end,
}
