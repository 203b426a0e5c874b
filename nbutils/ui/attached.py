"""A live panel of a run that another process trains; the kernel stays free.

A thread reads the run's log and draws. Since no cell is running, a button works.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.environment.platform import is_interactive
from nbutils.monitor.follow import look_on
from nbutils.ui.panel import LivePanel
from nbutils.ui.slots import make_slot

__all__ = ["AttachedPanel", "attach_live"]

_HINT = (
    "It outlives this kernel. <code>run.wait()</code> gives its result, "
    "<code>run.stop()</code> ends it and saves"
)


def attach_live(run_dir: Path, run: Any) -> AttachedPanel | None:
    """A panel that follows the run from now on; none where nobody is looking."""
    return AttachedPanel(run_dir, run) if is_interactive() else None


class AttachedPanel:
    """Follows a run in a thread, until it ends.

    Args:
        run_dir: Where the run lies.
        run: Has ``stop()`` and ``alive``.
    """

    def __init__(self, run_dir: Path, run: Any) -> None:
        self._run_dir = run_dir
        self._run = run
        self._button = _stop_button(run)
        below = () if self._button is None else (self._button,)
        self._panel = LivePanel(run_dir, make_slot(below), hint=_HINT)
        self._panel.refresh("starting")
        self._thread = threading.Thread(
            target=self._follow, name=f"panel of {run_dir.name}", daemon=True
        )
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it still follows."""
        return self._thread.is_alive()

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """While a cell runs, clicks are not heard: no button for the block."""
        if self._button is not None:
            self._button.layout.display = "none"
        try:
            yield
        finally:
            if self._button is not None:
                self._button.layout.display = None

    def join(self) -> None:
        """Wait until it has drawn the end."""
        self._thread.join(timeout=10.0)

    def _follow(self) -> None:
        try:
            look_on(self._run_dir, self._panel, is_following=True, poll_s=0.5)
        finally:
            self._panel.close()
            if self._button is not None:
                self._button.close()


def _stop_button(run: Any) -> Any:
    """A button that asks the run to end; it works while no cell is running."""
    if importlib.util.find_spec("ipywidgets") is None:
        return None
    from ipywidgets import Button, Layout

    button = Button(
        description="Stop and save",
        tooltip="Finish the step under way, save, and end the run",
        layout=Layout(width="max-content"),
    )

    def stop(_button: Any) -> None:
        button.disabled = True
        button.description = "Stopping ..."
        run.stop()

    button.on_click(stop)
    return button
