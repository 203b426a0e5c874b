"""Events as log records: a level, and the sentence that the text panel prints."""

from __future__ import annotations

import logging
from typing import Any

from nbutils.monitor.display import epoch_line
from nbutils.monitor.events import Event
from nbutils.monitor.sentences import sentence

__all__ = ["log_line"]

_LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fail": logging.ERROR,
    "critical": logging.CRITICAL,
}
_WARNINGS = ("refused", "rollback", "oom")
_SILENT = ("step", "monitor", "histogram", "examples", "evaluate")


def log_line(event: Event, epochs: int = 0) -> tuple[int, str] | None:
    """Level and text of an event; none of those that only hold numbers.

    Args:
        event: Any event of a run.
        epochs: How many are planned; 0: not known.

    Example:
        >>> log_line({"kind": "message", "level": "warning", "text": "slow disk"})
        (30, 'slow disk')
        >>> log_line({"kind": "step", "step": 3, "loss": 0.5})
    """
    kind, get = event["kind"], event.get
    if kind in _SILENT:
        return None
    if kind == "message":
        return _level(get("level"), logging.INFO), str(get("text"))
    if kind == "watchdog":
        level = _level(get("severity"), logging.WARNING)
        return level, f"watchdog {get('id')}: {get('text')}"
    if kind == "alert":
        text = f"alert: {get('title')}: {get('text')}"
        return _level(get("level"), logging.WARNING), text
    if kind == "epoch":
        return logging.INFO, epoch_line(event, epochs)
    if kind == "checkpoint":
        best = ", best so far" if get("best") else ""
        return logging.INFO, f"checkpoint of step {get('step')}{best}: {get('path')}"
    text = sentence(event)
    if not text:
        return None
    if kind == "run_end" and get("status") == "failed":
        return logging.ERROR, text
    return (logging.WARNING if kind in _WARNINGS else logging.INFO), text


def _level(name: Any, otherwise: int) -> int:
    return _LEVELS.get(str(name).lower(), otherwise)
