"""The views of a run: event log, panel and tracker, opened and closed together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import make_panel
from nbutils.monitor.events import EventLog
from nbutils.monitor.record import write_metrics_csv
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.factory import make_tracker

__all__ = ["Views", "open_views"]


@dataclass
class Views:
    """The open log, and the result to leave in the panel's place."""

    events: EventLog
    final_html: str | None = None

    def tell(self, text: str) -> None:
        """Write a warning that every view shows."""
        self.events.write("message", level="warning", text=text)


@contextmanager
def open_views(config: Any, folder: RunDirectory, run_id: str) -> Iterator[Views]:
    """Views of the run in ``folder``; at the end, ``metrics.csv`` and the report."""
    tracker = make_tracker(config, folder.path, run_id)
    with EventLog(folder.events_path) as events:
        panel = make_panel(folder.path, config)
        events.subscribe(panel.update, "panel")
        events.subscribe(tracker.write, type(tracker).__name__)
        views = Views(events)
        exit_code = 1
        try:
            yield views
            exit_code = 0
        finally:
            _attempt(events, "metrics.csv", lambda: write_metrics_csv(folder.path))
            _attempt(events, "report.html", lambda: _write_report(folder.path))
            _attempt(events, "tracker", lambda: tracker.finish(exit_code))
            _attempt(events, "panel", lambda: panel.close(views.final_html))


def _write_report(path: Path) -> None:
    from nbutils.monitor.report import write_report  # at the end only

    write_report(path)


def _attempt(events: EventLog, name: str, action: Any) -> None:
    """Run one view's end; a failing view is told in the log and stops nothing."""
    try:
        action()
    except Exception as error:
        text = f"{name} could not be finished: {type(error).__name__}: {error}"
        try:
            events.write("message", level="warning", text=text)
        except EnvironmentProblem:  # the log's own disk: told where there is still room
            sys.stderr.write(f"{text}\n")
