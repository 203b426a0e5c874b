"""Where the run is shown: a place that a notebook registers with, else plain text.

The packages that train never import a notebook library. The one that does calls
:func:`register`; without it, :func:`show` prints and the panel is a few log lines.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TextIO

from nbutils.monitor.events import Event
from nbutils.monitor.runview import NO_METRIC, RunView, format_duration, format_number
from nbutils.monitor.sentences import sentence

__all__ = [
    "Panel",
    "TextPanel",
    "attach_panel",
    "make_panel",
    "progress_line",
    "register",
    "show",
]

KILLED = (
    "killed: the process of this run ended without a word. train() on it resumes from "
    "its last checkpoint."
)
MAX_LINES = 200
_RESERVED_LINES = 10
"""Lines kept for how the run ends."""
_MAX_STEP_LINES = 50
"""Of a run whose length is known: a line each two percent, and more at its start."""
_MAX_EPOCH_LINES = 40
_GROWTH = 0.2
"""The gap between two lines grows with the time that the run has taken."""
_NUM_EQUAL = 12
"""So many events of a kind are told; then the 16th, the 32nd, the 64th."""
_RARE = ("run_start", "stop", "run_end", "message", "alert")


class Panel(Protocol):
    """A live view of one run, fed by its own process or by one that looks on."""

    view: RunView

    def update(self, event: Event) -> None:
        """Take an event in; draw when it is time."""

    def take(self, events: Iterable[Event]) -> None:
        """Take in what has happened since the last call; :meth:`refresh` draws it."""

    def refresh(self, life: str = "") -> None:
        """Draw if it is time; ``life`` is what :func:`life_of` says."""

    def close(self) -> None:
        """Draw the last state; a notebook leaves plain HTML in its place."""


Shower = Callable[[object], None]
PanelFactory = Callable[[Path, Any], "Panel | None"]

Attacher = Callable[[Path, Any], Any]

_registered: dict[str, Any] = {
    "shower": None,
    "panel_factory": None,
    "attacher": None,
}


def register(
    shower: Shower | None,
    panel_factory: PanelFactory | None,
    attacher: Attacher | None = None,
) -> None:
    """Set who shows objects and who makes panels; ``None`` goes back to text.

    A factory that returns ``None`` leaves that run to the text panel. An attacher
    shows a run of another process while this one goes on; it may return ``None`` too.
    """
    _registered.update(shower=shower, panel_factory=panel_factory, attacher=attacher)


def attach_panel(run_dir: Path, run: Any) -> Any:
    """Show a run of another process from now on, beside what this one does.

    Args:
        run_dir: Where it lies.
        run: Has ``stop()``, for a button.

    Returns:
        Something with ``is_open`` and ``join()``; none where nothing can be shown.
    """
    attacher = _registered["attacher"]
    return None if attacher is None else attacher(run_dir, run)


def show(obj: object) -> None:
    """Show ``obj`` in the notebook, or print its text."""
    shower = _registered["shower"]
    if shower is not None:
        shower(obj)
    else:
        _say(sys.stdout, str(obj))


def make_panel(run_dir: str | Path, config: Any) -> Panel:
    """The panel of a run: the registered one, text, or none for ``panel="off"``."""
    if config is not None and config.display.panel == "off":
        return _NoPanel()
    factory = _registered["panel_factory"]
    panel = factory(Path(run_dir), config) if factory is not None else None
    return panel if panel is not None else TextPanel()


class _NoPanel:
    """Shows nothing."""

    def __init__(self) -> None:
        self.view = RunView()

    def update(self, event: Event) -> None:
        """Nothing to draw."""

    def take(self, events: Iterable[Event]) -> None:
        """Take in what another process has done."""
        for event in events:
            self.view.apply(event)

    def refresh(self, life: str = "") -> None:
        """Nothing to draw."""

    def close(self) -> None:
        """Nothing to end."""


class TextPanel:
    """Progress as plain lines: every few seconds, at most 200 a run.

    Args:
        stream: Where to write; the standard output as it is at each line.
        interval_s: Least time between two lines about steps.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        interval_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.view = RunView()
        self.num_lines = 0
        self._stream = stream
        self._interval_s = interval_s
        self._clock = clock
        self._began_s: float | None = None
        self._next_s = self._calm_s = -math.inf
        self._next_step = 0.0

    def update(self, event: Event) -> None:
        """Take an event in; write a line when there is something to say."""
        self.view.apply(event)
        kind = event["kind"]
        if kind == "step":
            self._on_step()
        elif kind == "epoch":
            self._on_epoch(event)
        elif kind != "checkpoint" and (text := sentence(event)):
            self._on_other(kind, text)

    def take(self, events: Iterable[Event]) -> None:
        """Take in what another process does: the past at once, then lines."""
        if self.view.counts:
            for event in events:
                self.update(event)
            return
        for event in events:
            self.view.apply(event)
        if self.view.last_step:
            self._write(progress_line(self.view))
        elif self.view.start:
            self._write(sentence(self.view.start))
        if self.view.end:
            self._write(sentence(self.view.end), last=True)

    def refresh(self, life: str = "") -> None:
        """Say it if the run was killed."""
        if life == "killed":
            self._write("! " + KILLED, last=True)

    def close(self) -> None:
        """Nothing is held open; text has no place for HTML."""

    def _on_other(self, kind: str, text: str) -> None:
        count = self.view.counts[kind]
        if kind not in _RARE and count > _NUM_EQUAL:
            if count & (count - 1):  # no power of two
                return
            text += f" ({count} of this kind so far; events.jsonl has all)"
        self._write(text, last=kind in ("stop", "run_end"))

    def _on_step(self) -> None:
        now_s = self._clock()
        if self._began_s is None:
            self._began_s = now_s
        planned = self.view.start.get("planned_steps") or 0
        is_due = bool(planned) and self.view.step >= self._next_step
        if now_s < self._next_s and not (is_due and now_s >= self._calm_s):
            return
        self._calm_s = now_s + self._interval_s
        self._next_s = now_s + max(self._interval_s, _GROWTH * (now_s - self._began_s))
        self._next_step = self.view.step + planned / _MAX_STEP_LINES
        self._write(progress_line(self.view))

    def _on_epoch(self, event: Event) -> None:
        epochs = int(self.view.start.get("epochs") or 0)
        every = max(1, math.ceil(epochs / _MAX_EPOCH_LINES))
        epoch = int(event["epoch"])
        if epoch % every == 0 or epoch == epochs:
            self._write(epoch_line(event, epochs))

    def _write(self, text: str, *, last: bool = False) -> None:
        limit = MAX_LINES if last else MAX_LINES - _RESERVED_LINES
        if self.num_lines >= limit:
            return
        self.num_lines += 1
        if self.num_lines == limit and not last:
            text = "(further lines are left out here; events.jsonl has all)"
        _say(self._stream or sys.stdout, text)


def progress_line(view: RunView) -> str:
    """One line about where the run is now."""
    start, step = view.start, view.last_step
    parts = []
    if start.get("epochs"):
        epoch = min(int(step.get("epoch", 0)) + 1, int(start["epochs"]))
        parts.append(f"epoch {epoch}/{start['epochs']}")
    planned = start.get("planned_steps")
    parts.append(f"step {view.step}/{planned}" if planned else f"step {view.step}")
    parts.append(f"loss {format_number(step.get('loss'))}")
    chosen = [name for name in view.metrics if name != "val_loss"] or ["val_loss"]
    parts += [
        f"{name} {format_number(view.metrics[name])}"
        for name in chosen[:1]
        if name in view.metrics
    ]
    if step.get("lr") is not None:
        parts.append(f"lr {step['lr']:.1e}")
    if step.get("samples_per_s"):
        parts.append(f"{format_number(round(step['samples_per_s']))} samples/s")
    if view.num_refused:
        parts.append(f"{view.num_refused} refused")
    if math.isfinite(view.eta_s()):
        parts.append(f"{format_duration(view.eta_s())} left")
    return "  ".join(parts)


def epoch_line(event: Event, epochs: int = 0) -> str:
    """One line about a finished epoch: its numbers."""
    of = f"/{epochs}" if epochs else ""
    parts = [f"epoch {event['epoch']}{of} done"]
    parts += [
        f"{name} {format_number(value)}"
        for name, value in event.items()
        if name not in ("time_s", *NO_METRIC) and isinstance(value, (int, float))
    ]
    if event.get("refused"):
        parts.append(f"{event['refused']} refused")
    if seconds := event.get("seconds"):
        short = f"{seconds:.1f} s" if seconds < 10 else format_duration(seconds)
        parts.append(f"in {short}")
    return "  ".join(parts)


def _say(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
