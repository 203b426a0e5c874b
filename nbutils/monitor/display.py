"""Where the run is shown: a place that a notebook registers with, else plain text.

The packages that train never import a notebook library. The one that does calls
:func:`register`; without it, :func:`show` prints and the panel is a few log lines.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

from nbutils.monitor.events import Event
from nbutils.monitor.runview import NO_METRIC, RunView, format_duration, format_number

__all__ = ["Panel", "TextPanel", "make_panel", "progress_line", "register", "show"]

MAX_LINES = 200
_RESERVED_LINES = 10
"""Lines kept for how the run ends."""
_MAX_STEP_LINES = 100
_MAX_EPOCH_LINES = 60


class Panel(Protocol):
    """A live view of one run."""

    def update(self, event: Event) -> None:
        """Take an event in; draw when it is time."""

    def close(self, final_html: str | None = None) -> None:
        """Draw the last state; a notebook leaves ``final_html`` in its place."""


Shower = Callable[[object], None]
PanelFactory = Callable[[Path, Any], "Panel | None"]

_registered: dict[str, Any] = {"shower": None, "panel_factory": None}


def register(shower: Shower | None, panel_factory: PanelFactory | None) -> None:
    """Set who shows objects and who makes panels; ``None`` goes back to text.

    A factory that returns ``None`` leaves that run to the text panel.
    """
    _registered.update(shower=shower, panel_factory=panel_factory)


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

    def update(self, event: Event) -> None:
        """Nothing to draw."""

    def close(self, final_html: str | None = None) -> None:
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
        self._next_s = -math.inf
        self._next_step = 0.0
        self._num_step_lines = 0

    def update(self, event: Event) -> None:
        """Take an event in; write a line when there is something to say."""
        self.view.apply(event)
        kind = event["kind"]
        if kind == "step":
            self._on_step()
        elif kind == "epoch":
            self._on_epoch(event)
        elif text := _sentence(event):
            self._write(text, last=kind in ("stop", "run_end"))

    def close(self, final_html: str | None = None) -> None:
        """Nothing is held open; text has no place for HTML."""

    def _on_step(self) -> None:
        step, now_s = self.view.step, self._clock()
        if now_s < self._next_s or step < self._next_step:
            return
        self._num_step_lines += 1
        planned = self.view.start.get("planned_steps") or 0
        # Without a plan the gap grows, so that the lines never run out early.
        gap = 1.05 ** min(self._num_step_lines, 400) if not planned else 1.0
        self._next_s = now_s + self._interval_s * gap
        self._next_step = step + planned / _MAX_STEP_LINES
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


def _sentence(event: Event) -> str:
    """What an event other than a step or an epoch says; empty: nothing."""
    kind, get = event["kind"], event.get
    if kind == "run_start":
        reason = f" ({get('precision_reason')})" if get("precision_reason") else ""
        return (
            f"run {get('run_id')}  {format_number(get('num_parameters'))} parameters  "
            f"{get('device')}  {get('precision')}{reason}  "
            f"{format_number(get('planned_steps'))} steps planned"
        )
    if kind == "resume":
        return f"resumed at step {get('step')} from {get('checkpoint')}"
    if kind == "refused":
        return _refusal(event)
    if kind == "oom":
        where = " in evaluation" if get("where") == "evaluate" else ""
        size = get("micro_batch")
        then = "tried once more" if get("is_repeated") else f"batch now {size}"
        return f"out of memory at step {get('step')}{where}; {then}"
    if kind == "rollback":
        return f"rolled back to step {get('to_step')}: {get('reason')}"
    if kind == "watchdog":
        return f"{get('severity', 'warning')} {get('id')}: {get('text')}"
    if kind == "message":
        return f"{get('level', 'info')}: {get('text')}"
    if kind == "stop":
        return f"stopping at step {get('step')}: {get('reason')}"
    if kind == "run_end":
        took = format_duration(get("seconds", math.nan))
        return (
            f"run ended: {get('status')}, {get('reason')}, step {get('step')}, {took}"
        )
    return ""


def _refusal(event: Event) -> str:
    """A refused step, where its first bad value arose, and where its batch lies."""
    loss, norm = (format_number(event.get(key)) for key in ("loss", "grad_norm"))
    text = (
        f"step {event.get('step')} refused before the weights changed: loss {loss}, "
        f"grad_norm {norm}"
    )
    if event.get("settling_scale") is not None:
        return f"{text}; the loss scale settles"
    found = f"; {event['culprit']}" if event.get("culprit") else ""
    return f"{text}; batch saved: {event.get('batch_file')}{found}"


def _say(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
