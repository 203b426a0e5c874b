"""Which events are worth a message to somebody who is not looking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbutils.monitor.redact import redact

__all__ = ["Alert", "alert_of"]

Event = dict[str, Any]
_LEVELS = {"info": "INFO", "warning": "WARN", "warn": "WARN", "error": "ERROR"}
_MAX_TITLE = 63
_MAX_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Alert:
    """A message: ``level`` is ``INFO``, ``WARN`` or ``ERROR``."""

    level: str
    title: str
    text: str


def alert_of(event: Event, run_name: str) -> Alert | None:
    """The message that an event is worth; none for most.

    Divergence (a serious watchdog, a roll-back once the budget for refused updates is
    spent), the run's end with its reason, and events of kind ``alert``.

    Example:
        >>> end = {"kind": "run_end", "status": "failed", "reason": "out of budget"}
        >>> alert_of(end, "owl")
        Alert(level='ERROR', title='owl: failed', text='out of budget')
    """
    kind = event["kind"]
    if kind == "alert":
        level = _LEVELS.get(str(event.get("level", "")).lower(), "INFO")
        return _alert(level, str(event.get("title")), event.get("text"))
    if kind == "watchdog" and event.get("severity") in ("serious", "fail"):
        title = f"{run_name}: watchdog {event.get('id')}"
        return _alert("WARN", title, f"step {event.get('step')}: {event.get('text')}")
    if kind == "rollback":
        return _alert("WARN", f"{run_name}: rolled back", event.get("reason"))
    if kind == "run_end":
        status = str(event.get("status"))
        level = {"failed": "ERROR", "interrupted": "WARN"}.get(status, "INFO")
        return _alert(level, f"{run_name}: {status}", event.get("reason"))
    return None


def _alert(level: str, title: str, text: object) -> Alert:
    shown = redact(str(text or ""))[:_MAX_TEXT]
    return Alert(level, redact(title)[:_MAX_TITLE], shown)
