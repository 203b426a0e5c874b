"""The live panel: one output slot, redrawn in place and seldom.

Updates are bounded in rate, size and time, because a front end that is flooded loses
the end of the output. The last drawing is plain HTML that stays in the notebook.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from nbutils.monitor.about import About
from nbutils.monitor.dashboard import (
    Parts,
    charts_html,
    dashboard_html,
    head_html,
    notes_html,
)
from nbutils.monitor.display import TextPanel, progress_line
from nbutils.monitor.events import Event
from nbutils.monitor.facts import status_of
from nbutils.monitor.runview import RunView
from nbutils.ui.slots import Slot, make_slot

__all__ = ["HeadlessPanel", "LivePanel", "hint_html"]

HEAD_EVERY_S = 0.5
CHARTS_EVERY_S = 5.0
COST_FRACTION = 0.005
"""Share of the time that curves, and all else, may take each: what is slow is rare."""

_SELDOM_TOLD = ("step", "monitor", "histogram", "examples")
"""Kinds after which table and events are as they were."""


class LivePanel:
    """Draws a run's events in one place of the notebook.

    Args:
        run_dir: Where the run lies.
        slot: What is drawn in; by default a place of its own.
        clock: Seconds that only grow.
        hint: HTML at the foot while the run goes on.
    """

    def __init__(
        self,
        run_dir: str | Path,
        slot: Slot | None = None,
        clock: Callable[[], float] = time.perf_counter,
        hint: str | None = None,
    ) -> None:
        self.view = RunView()
        self.life = ""
        self._path = Path(run_dir)
        self._slot = slot if slot is not None else make_slot()
        self._clock = clock
        self._hint = hint_html(self._path) if hint is None else hint
        self._lock = threading.Lock()  # checkpoints and mirrors tell from threads
        self._about = About(path=self._path)
        self._charts = self._notes = ""
        self._is_told = False
        self._costs_s: deque[float] = deque(maxlen=3)
        self._next_head_s = self._next_charts_s = -math.inf

    def update(self, event: Event) -> None:
        """Take an event in; draw when it is time."""
        with self._lock:
            self._take(event)
            if self._clock() >= self._next_head_s:
                self._draw()

    def take(self, events: Iterable[Event]) -> None:
        """Take in what has happened; :meth:`refresh` draws it."""
        with self._lock:
            for event in events:
                self._take(event)

    def refresh(self, life: str = "") -> None:
        """Draw if it is time; ``life`` is what :func:`life_of` says."""
        with self._lock:
            self.life = life
            if self._clock() >= self._next_head_s:
                self._draw()

    def close(self) -> None:
        """Leave the whole run as plain HTML in the panel's place."""
        with self._lock:
            self._about = About.read(self._path)
            state, reason = status_of(self.view, self.life)
            is_over = bool(self.view.end) or self.life == "killed"
            hint = "" if is_over else self._hint
            self._slot.end(
                dashboard_html(self.view, self._about, self.life, hint),
                f"{self._about.name}: {state} {reason}  {progress_line(self.view)}",
            )

    def _take(self, event: Event) -> None:
        self.view.apply(event)
        if event["kind"] not in _SELDOM_TOLD:
            self._is_told = False

    def _draw(self) -> None:
        now_s = began_s = self._clock()
        if draws_all := began_s >= self._next_charts_s:
            self._about = About.read(self._path)
        if draws_all or not self._is_told:
            self._notes = notes_html(self.view, self._about, self._hint)
            self._is_told = True
        head = head_html(self.view, self._about, self.life)
        if draws_all:
            charts_began_s = self._clock()
            self._charts = charts_html(self.view, self._about, head, self._notes)
            cost_s = self._clock() - charts_began_s
            began_s += cost_s  # what is left is the cost of the rest
            self._next_charts_s = now_s + max(CHARTS_EVERY_S, cost_s / COST_FRACTION)
        self._slot.show(Parts(head=head, charts=self._charts, notes=self._notes))
        self._costs_s.append(self._clock() - began_s)
        # The least of a few: one draw may have waited for the processor.
        pause_s = min(self._costs_s) / COST_FRACTION
        self._next_head_s = now_s + max(HEAD_EVERY_S, pause_s)


class HeadlessPanel(TextPanel):
    """Lines of text while the run goes on, and its dashboard as HTML at the end.

    Args:
        run_dir: Where the run lies.
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self._path = Path(run_dir)

    def close(self) -> None:
        """Leave the whole run as plain HTML in the output."""
        from IPython.display import display

        about = About.read(self._path)
        text = f"{about.name}: {progress_line(self.view)}"
        html = dashboard_html(self.view, about)
        display({"text/html": html, "text/plain": text}, raw=True)


def hint_html(path: Path) -> str:
    """How to stop a run of this kernel, and how to come back to it."""
    folder = escape(repr(str(path)))
    return (
        "Stop and save: interrupt the kernel, or make a file STOP there. "
        f"Lost this tab? <code>nb.show_run({folder}, follow=True)</code>"
    )
