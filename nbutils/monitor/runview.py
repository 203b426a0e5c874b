"""What the events say about a run so far; every view folds them the same way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbutils.monitor.events import Event

__all__ = [
    "NO_METRIC",
    "RunView",
    "Series",
    "columns",
    "format_duration",
    "format_number",
]

NO_METRIC = ("epoch", "step", "lr", "seconds", "refused")
"""Columns of an epoch's row that say when and how, not how well."""

_NOT_A_COLUMN = ("time_s", "kind")
_TELLS_STEP = ("step", "epoch", "evaluate", "checkpoint", "stop", "run_end")
_NOTABLE = (
    *("resume", "refused", "rollback", "oom", "checkpoint", "watchdog", "message"),
    *("stop", "run_end", "published", "alert"),
)
_MAX_MONITORED = 64
_MONITOR_POINTS = 256
_NUM_WARM = 4
"""So many logged steps after which the first one is the start of the pace."""


class Series:
    """A curve of bounded length: when full, every second point goes.

    Args:
        max_points: Upper bound of the points kept.
    """

    def __init__(self, max_points: int = 1024) -> None:
        self.points: list[tuple[float, float]] = []
        self._max_points = max_points
        self._stride = 1
        self._num_seen = 0

    def append(self, x: float, y: float) -> None:
        """Add a point, or leave it out where the curve is thinned."""
        if self._num_seen % self._stride == 0:
            self.points.append((x, y))
        self._num_seen += 1
        if len(self.points) >= self._max_points:
            self.points = self.points[::2]
            self._stride *= 2

    def cut_after(self, x: float) -> None:
        """Forget what lies beyond ``x``: the run went back to it."""
        self.points = [point for point in self.points if point[0] <= x]


@dataclass(slots=True, kw_only=True)
class RunView:
    """The state of a run, rebuilt from its events.

    After a resume, rows and curves beyond its step are dropped: they belong to
    work that was done again.
    """

    start: Event = field(default_factory=dict)
    last_step: Event = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    rows_by_epoch: dict[int, dict[str, Any]] = field(default_factory=dict)
    loss: Series = field(default_factory=Series)
    lr: Series = field(default_factory=Series)
    checked: dict[str, Series] = field(default_factory=dict)
    """Validation numbers over steps, by name."""
    monitored: dict[str, Series] = field(default_factory=dict)
    """Numbers with a cadence of their own, such as memory, by name."""
    monitor: dict[str, float] = field(default_factory=dict)
    """The last of each of them."""
    notable: list[Event] = field(default_factory=list)
    best_checkpoint: Event = field(default_factory=dict)
    last_checkpoint: Event = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Events so far, by kind."""
    num_refused: int = 0
    num_resumes: int = 0
    step: int = 0
    """Windows attempted so far, by whichever event told it last."""
    base: tuple[int, float] = (0, math.nan)
    """Step and time from which this process runs; rates count from there."""
    warm: tuple[int, float] | None = None
    """Its first logged step: what came before was start-up, and tells no pace."""
    steps_seen: int = 0
    """Logged steps of this process."""
    first_time_s: float = math.nan
    last_time_s: float = math.nan
    stop: Event = field(default_factory=dict)
    end: Event = field(default_factory=dict)

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> RunView:
        """The view after all of ``events``."""
        view = cls()
        for event in events:
            view.apply(event)
        return view

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per finished epoch, in order."""
        return [self.rows_by_epoch[epoch] for epoch in sorted(self.rows_by_epoch)]

    @property
    def seconds(self) -> float:
        """From the first event to the last one, pauses between runs included."""
        span_s = self.last_time_s - self.first_time_s
        return span_s if math.isfinite(span_s) else 0.0

    def eta_s(self) -> float:
        """Seconds left at the present rate; NaN while it is not known."""
        planned, rate = self.start.get("planned_steps"), self._steps_per_s()
        if not planned or not rate:
            return math.nan
        return max(planned - self.step, 0) / rate

    def apply(self, event: Event) -> None:
        """Take one more event into account."""
        time_s = event.get("time_s", math.nan)
        if math.isnan(self.first_time_s):
            self.first_time_s = time_s
        self.last_time_s = time_s
        kind = event["kind"]
        self.counts[kind] += 1
        if kind in _TELLS_STEP:  # not every step has an event of its own
            self.step = max(self.step, int(event.get("step") or 0))
        if kind in _NOTABLE and not _is_plain_checkpoint(event):
            self.notable.append(event)
        apply = getattr(self, f"_on_{kind}", None)
        if apply is not None:  # a kind without numbers of its own, such as message
            apply(event)

    def _on_run_start(self, event: Event) -> None:
        self.start = event
        self._begin_at(event)

    def _on_resume(self, event: Event) -> None:
        self.num_resumes += 1
        self._begin_at(event)

    def _begin_at(self, event: Event) -> None:
        """Forget what lies beyond the step where a process begins."""
        step, epoch = event.get("step", 0), event.get("epoch", 0)
        self.base, self.end = (step, event.get("time_s", math.nan)), {}
        self.stop, self.warm, self.steps_seen = {}, None, 0
        kept = (*self.checked.values(), *self.monitored.values())
        for series in (self.loss, self.lr, *kept):
            series.cut_after(step)
        self.rows_by_epoch = {
            number: row
            for number, row in self.rows_by_epoch.items()
            if number <= epoch and row.get("step", 0) <= step
        }
        if self.best_checkpoint.get("step", 0) > step:
            self.best_checkpoint = {}
        self.last_step = {**self.last_step, "step": step, "epoch": epoch}
        self.step = step

    def _on_step(self, event: Event) -> None:
        self.last_step = event
        self.steps_seen += 1
        if self.warm is None:
            self.warm = event.get("step", 0), event.get("time_s", math.nan)
        self.num_refused = event.get("refused", self.num_refused)
        for series, value in (self.loss, event.get("loss")), (self.lr, event.get("lr")):
            if value is not None:  # not read back from the device yet
                series.append(event["step"], value)

    def _on_evaluate(self, event: Event) -> None:
        if event.get("split") != "test":
            numbers = _numbers(event.get("metrics", {}))
            self.metrics.update(numbers)
            self._check(event.get("step", self.step), numbers)

    def _check(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add validation numbers to their curves, each step once."""
        for name, value in numbers.items():
            series = self.checked.setdefault(name, Series())
            if not series.points or series.points[-1][0] < step:
                series.append(step, value)

    def _on_monitor(self, event: Event) -> None:
        step = event.get("step", self.step)
        for name, value in _numbers(event.get("values", {})).items():
            if name not in self.monitored and len(self.monitored) >= _MAX_MONITORED:
                continue
            self.monitor[name] = value
            series = self.monitored.setdefault(name, Series(_MONITOR_POINTS))
            series.append(step, value)

    def _on_epoch(self, event: Event) -> None:
        row = {key: event[key] for key in event if key not in _NOT_A_COLUMN}
        self.rows_by_epoch[int(event["epoch"])] = row
        checked = {key: value for key, value in _numbers(row).items() if "val" in key}
        self.metrics.update(checked)
        self._check(event.get("step", self.step), checked)

    def _on_checkpoint(self, event: Event) -> None:
        self.last_checkpoint = event
        if event.get("best"):
            self.best_checkpoint = event

    def _on_refused(self, event: Event) -> None:
        del event
        self.num_refused += 1

    def _on_stop(self, event: Event) -> None:
        self.stop = event

    def _on_run_end(self, event: Event) -> None:
        self.end = event

    def _steps_per_s(self) -> float:
        """The pace of this process, without its start-up once that can be told."""
        base_step, base_time_s = self.base
        if self.warm is not None and self.steps_seen > _NUM_WARM:
            base_step, base_time_s = self.warm
        done = self.last_step.get("step", 0) - base_step
        elapsed_s = self.last_step.get("time_s", math.nan) - base_time_s
        return done / elapsed_s if elapsed_s > 0 and done > 0 else 0.0


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of a table of epochs; without ``refused`` where nothing was.

    Example:
        >>> columns([{"epoch": 1, "refused": 0}, {"epoch": 2, "val_loss": 0.1}])
        ['epoch', 'val_loss']
    """
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    if not any(row.get("refused") for row in rows):
        names.pop("refused", None)
    return list(names)


def format_number(value: object) -> str:
    """A number as it is read at a glance: four digits that matter.

    Example:
        >>> [format_number(x) for x in (0.41234, 0.0012, 1234567, 1.2e-5, None)]
        ['0.4123', '0.0012', '1,234,567', '1.20e-05', '-']
    """
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value) or value == 0.0:
        return f"{value:g}"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def format_duration(seconds: float) -> str:
    """``0:35``, ``12:07``, ``3:04:10``; a dash when it is not known.

    Example:
        >>> format_duration(35.4), format_duration(11050), format_duration(math.nan)
        ('0:35', '3:04:10', '-')
    """
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _is_plain_checkpoint(event: Event) -> bool:
    return event["kind"] == "checkpoint" and not event.get("best")
