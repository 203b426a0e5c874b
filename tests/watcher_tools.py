"""Runs with watchers, and what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbutils as nb
from nbutils.monitor.events import Event, read_events

__all__ = ["fit", "kinds", "monitored"]

SETTINGS: dict[str, Any] = {
    "preflight": "skip",
    "panel": "off",
    "device": "cpu",
    "save_every_epochs": None,
}


def fit(
    task: nb.Task, folder: str | Path, *callbacks: Any, **options: Any
) -> nb.TrainResult:
    """Train ``task`` in ``folder``."""
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **{**SETTINGS, **options}
    ).train()


def kinds(folder: str | Path, kind: str) -> list[Event]:
    """All events of a kind."""
    events = read_events(Path(folder) / "events.jsonl")
    return [event for event in events if event["kind"] == kind]


def monitored(folder: str | Path, prefix: str = "") -> dict[int, dict[str, float]]:
    """What was monitored under a prefix, by step."""
    found: dict[int, dict[str, float]] = {}
    for event in kinds(folder, "monitor"):
        values = {n: v for n, v in event["values"].items() if n.startswith(prefix)}
        if values:
            found.setdefault(event["step"], {}).update(values)
    return found
