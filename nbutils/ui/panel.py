"""The live panel: one output slot, redrawn in place and seldom.

Updates are bounded in rate and size, because a front end that is flooded loses the
end of the output. The last drawing is plain HTML that stays in the saved notebook.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbutils.monitor.events import Event
from nbutils.monitor.runview import RunView
from nbutils.ui.dashboard import curves_html, dashboard_html

__all__ = ["LivePanel"]

_TEXT_EVERY_S = 0.5
_CHART_EVERY_S = 2.0


class LivePanel:
    """Draws a run's events in one place of the notebook.

    Args:
        run_dir: Named at the foot, for coming back to it.
        slot: Takes HTML and shows it in place; by default a display of its own.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        run_dir: str | Path,
        slot: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.view = RunView()
        self._run_dir = str(run_dir)
        self._put = slot if slot is not None else DisplaySlot()
        self._clock = clock
        self._next_text_s = -math.inf
        self._next_chart_s = -math.inf
        self._charts = ""

    def update(self, event: Event) -> None:
        """Take an event in; draw when it is time."""
        self.view.apply(event)
        now_s = self._clock()
        if now_s >= self._next_text_s:
            self._draw(now_s)

    def close(self, final_html: str | None = None) -> None:
        """Draw the last state once more, or leave ``final_html`` in its place."""
        if final_html is not None:
            self._put(final_html)
            return
        self._next_chart_s = -math.inf
        self._draw(self._clock())

    def _draw(self, now_s: float) -> None:
        if now_s >= self._next_chart_s:
            self._charts = curves_html(self.view)
            self._next_chart_s = now_s + _CHART_EVERY_S
        self._put(dashboard_html(self.view, self._charts, self._run_dir))
        self._next_text_s = now_s + _TEXT_EVERY_S


class DisplaySlot:
    """One output of a cell, replaced in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def __call__(self, html: str) -> None:
        """Show ``html`` where the one before stood."""
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))
