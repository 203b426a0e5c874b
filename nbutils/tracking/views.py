"""The views of a run: event log, panel and trackers, opened and closed together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import make_panel
from nbutils.monitor.events import EventLog
from nbutils.monitor.record import write_metrics_csv
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.describe import model_facts
from nbutils.tracking.factory import make_tracker
from nbutils.tracking.link import TrackerLink
from nbutils.tracking.tracker import Several, Tracker

__all__ = ["Views", "open_views"]

ABORTED = 255
"""Exit code of a run that an interrupt cut off, as W&B knows it."""


@dataclass
class Views:
    """The open log, and what is linked to it.

    Attributes:
        link: To be saved with each snapshot, and to watch the run.
    """

    events: EventLog
    folder: RunDirectory
    link: TrackerLink = field(default_factory=TrackerLink)

    def tell(self, text: str) -> None:
        """Write a warning that every view shows."""
        self.events.write("message", level="warning", text=text)

    def describe(self, model: Any, detect: Callable[[Any], str]) -> None:
        """Put what the model is into ``run.json``; ``detect`` names its family."""

        def note() -> None:
            found = model_facts(model, detect(model))
            self.folder.update_json("run.json", model=found)

        _attempt(self.events, "the description of the model", note)


@contextmanager
def open_views(config: Any, folder: RunDirectory, run_id: str) -> Iterator[Views]:
    """Views of the run in ``folder``; at the end, ``metrics.csv`` and the report.

    The trackers end with 0 after a graceful end, 1 after an error, 255 after an abort.
    """
    link = TrackerLink()
    tracker = make_tracker(config, folder.path, run_id, link)
    with EventLog(folder.events_path) as events:
        panel: Any = None

        def show_panel() -> None:
            nonlocal panel
            panel = make_panel(folder.path, config)
            events.subscribe(panel.update, "panel")

        _attempt(events, "panel", show_panel)
        for name, part in _parts(tracker).items():
            events.subscribe(part.write, name)
        views = Views(events, folder, link)
        link.tell = views.tell
        exit_code = ABORTED
        try:
            yield views
            exit_code = 0
        except Exception:
            exit_code = 1
            raise
        finally:
            _attempt(events, "metrics.csv", lambda: write_metrics_csv(folder.path))
            _attempt(events, "report.html", lambda: _write_report(folder.path))
            for name, part in _parts(tracker).items():
                label = f"tracker {name}" if isinstance(tracker, Several) else "tracker"
                _attempt(events, label, lambda part=part: part.finish(exit_code))
            if panel is not None:
                _attempt(events, "panel", lambda: panel.close())


def _parts(tracker: Tracker) -> dict[str, Tracker]:
    """Each tracker by the name that its failures are told under."""
    parts = tracker.parts.values() if isinstance(tracker, Several) else [tracker]
    return {getattr(part, "name", type(part).__name__): part for part in parts}


def _write_report(path: Path) -> None:
    from nbutils.monitor.report import write_report  # at the end only

    write_report(path)


def _attempt(events: EventLog, name: str, action: Any) -> None:
    """Open or end one view; a failing view is told in the log and stops nothing."""
    try:
        action()
    except Exception as error:
        text = f"{name} could not be finished: {type(error).__name__}: {error}"
        try:
            events.write("message", level="warning", text=text)
        except EnvironmentProblem:  # the log's own disk: told where there is still room
            sys.stderr.write(f"{text}\n")
