"""``show_run``: the dashboard of a run, rebuilt from what lies on disk.

The answer to a lost tab, a restarted kernel, or a second notebook that looks on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import TextPanel
from nbutils.monitor.events import Event, read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import RunView
from nbutils.ui.dashboard import curves_html, dashboard_html
from nbutils.ui.notebook import in_kernel
from nbutils.ui.panel import DisplaySlot

__all__ = ["show_run"]

_POLL_S = 2.0


def show_run(
    run_dir: str | Path,
    follow: bool = False,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run from its directory: HTML in a kernel, lines of text elsewhere.

    Args:
        run_dir: The folder of the run.
        follow: Go on until the run ends or you interrupt; else show once.
        sleep: Waits between two looks.

    Raises:
        EnvironmentProblem: There is no run in that folder.
    """
    path = Path(run_dir)
    draw = _html_drawer(path) if in_kernel() else _text_drawer()
    events = _events_of(path)
    draw(events)
    try:
        while follow and not RunView.from_events(events).end:
            sleep(_POLL_S)
            events = _events_of(path)
            draw(events)
    except KeyboardInterrupt:
        return  # the way to stop looking; the run goes on


def _events_of(path: Path) -> list[Event]:
    directory = RunDirectory(path)
    if not directory.events_path.exists():
        near = _runs_beside(path)
        hint = f" Runs there: {near}." if near else ""
        raise EnvironmentProblem(
            f"{path} holds no run: there is no {directory.events_path.name} in it. "
            f"Expected a run directory such as runs/my-run.{hint} Pass one of these, "
            "or result.run_dir of a finished run."
        )
    return read_events(directory.events_path)


def _runs_beside(path: Path) -> str:
    """Names of up to five runs in or beside a folder, newest first."""
    folders = (path, path.parent)
    found = [log.parent for folder in folders for log in folder.glob("*/events.jsonl")]
    found.sort(key=lambda run: run.stat().st_mtime, reverse=True)
    return ", ".join(str(run) for run in found[:5])


def _html_drawer(path: Path) -> Callable[[list[Event]], None]:
    slot = DisplaySlot()

    def draw(events: list[Event]) -> None:
        view = RunView.from_events(events)
        slot(dashboard_html(view, curves_html(view), str(path)))

    return draw


def _text_drawer() -> Callable[[list[Event]], None]:
    """Lines about the events that were not there at the last look."""
    panel = TextPanel(interval_s=0.0)
    num_shown = 0

    def draw(events: list[Event]) -> None:
        nonlocal num_shown
        for event in events[num_shown:]:
            panel.update(event)
        num_shown = len(events)

    return draw
