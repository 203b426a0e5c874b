"""What ``train()`` gives back; rebuilt from disk at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.digest import RunDigest
from nbutils.monitor.events import read_events
from nbutils.monitor.figures import plot_history, save_figure
from nbutils.monitor.record import RunRecord
from nbutils.monitor.reporting.drawn import Gallery
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import (
    NO_METRIC,
    columns,
    format_duration,
    format_number,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["TrainResult"]

_SHOWN_ROWS = 8
_CELL = "padding:2px 9px;text-align:right;font-variant-numeric:tabular-nums"
_FRAME = (
    "font:14px/1.5 system-ui,sans-serif;max-width:68em;padding:10px 14px;"
    "border:1px solid rgba(128,128,128,.35);border-radius:8px;margin:4px 0"
)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended and what it reached.

    Args:
        stop_reason: ``"completed"``, ``"patience"``, ``"requested: …"``, …
        metrics: Numbers of the last finished epoch.
        rows: One mapping per finished epoch.
        best: ``metric``, ``value``, ``step`` and ``path`` of the best checkpoint.
        steps: Windows attempted.
        skipped: Windows whose update was refused.
        run_dir: Where everything lies.
        seconds: Duration.
        alarms: What the watchdogs said, a sentence or two each.
    """

    stop_reason: str
    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    best: Mapping[str, Any]
    steps: int
    skipped: int
    run_dir: Path
    seconds: float
    alarms: Sequence[str] = ()

    @classmethod
    def from_run(cls, run_dir: str | Path) -> TrainResult:
        """The result of a run on disk, finished or not.

        Raises:
            EnvironmentProblem: The folder holds no events of a run.
        """
        record = RunRecord.read(run_dir)
        if not record.events:
            raise EnvironmentProblem(
                f"{run_dir} holds no events of a run; expected a run directory with "
                "events.jsonl in it. Pass the folder that the run printed."
            )
        rows = record.view.rows
        return cls(
            stop_reason=record.stop_reason,
            metrics=_numbers(rows[-1]) if rows else {},
            rows=rows,
            best=record.best,
            steps=record.view.step,
            skipped=record.view.num_refused,
            run_dir=record.path,
            seconds=record.seconds,
            alarms=[
                f"{event.get('id')}: {event.get('text')}"
                for event in record.view.notable
                if event["kind"] == "watchdog"
            ],
        )

    @property
    def history(self) -> pd.DataFrame:
        """One row per finished epoch."""
        import pandas as pd

        return pd.DataFrame([dict(row) for row in self.rows])

    @property
    def figures(self) -> Gallery:
        """All saved figures by name; a notebook shows them, those of tests included."""
        return Gallery(RunDirectory(self.run_dir).figures_dir)

    def plot(self) -> Figure:
        """Loss, metrics and learning rate; also saved as ``figures/curves.png``.

        What ``evaluate("test")`` drew lies beside it: :attr:`figures` shows all.
        """
        directory = RunDirectory(self.run_dir)
        events = read_events(directory.events_path)
        figure = plot_history(self.rows, events, self.best)
        save_figure(figure, directory.figures_dir / "curves.png")
        return figure

    def summary(self) -> str:
        """The result as a few lines of text."""
        lines = [
            f"run {self.run_dir.name}: {self.stop_reason}",
            f"  {self._work()}",
            f"  best     {self._best()}",
        ]
        if self.metrics:
            numbers = [
                f"{name} {format_number(value)}"
                for name, value in self.metrics.items()
                if name not in NO_METRIC
            ]
            lines.append(f"  last     {'  '.join(numbers)}")
        lines += [f"  ! {alarm}" for alarm in self.alarms]
        if RunDirectory(self.run_dir).events_path.exists():
            digest = RunDigest.read(self.run_dir)
            lines[1:1] = digest.lines("model")
            lines += digest.lines("test", "trouble", "kept")
        lines.append(f"  files    {self.run_dir}")
        return "\n".join(lines)

    @property
    def details(self) -> dict[str, Any]:
        """The run summary as data: model, work, rates, trouble, checkpoints, files.

        Read from the run directory; ``summary.json`` there is the same as of its end.

        Raises:
            EnvironmentProblem: The folder holds no events of a run.
        """
        return RunDigest.read(self.run_dir).to_dict()

    def __str__(self) -> str:
        return self.summary()

    def _work(self) -> str:
        refused = f", {self.skipped} refused" if self.skipped else ""
        took = format_duration(self.seconds)
        num_epochs = len(self.rows)
        noun = "epoch" if num_epochs == 1 else "epochs"
        return f"{self.steps:,} steps{refused}, {num_epochs} {noun}, {took}"

    def _best(self) -> str:
        if "value" not in self.best:
            return "not known: no finished epoch with the monitored metric"
        at = f" at step {self.best['step']}" if self.best.get("step") else ""
        where = f" ({self.best['path']})" if self.best.get("path") else ""
        value = format_number(self.best["value"])
        return f"{self.best.get('metric', 'metric')} {value}{at}{where}"

    def _repr_html_(self) -> str:
        return (
            f'<section style="{_FRAME}">'
            f"<strong>Run {escape(self.run_dir.name)}: {escape(self.stop_reason)}"
            f"</strong><div>{escape(self._work())}</div>"
            f"<div>Best: {escape(self._best())}</div>"
            f"{''.join(f'<div>! {escape(alarm)}</div>' for alarm in self.alarms)}"
            f"{self._table()}"
            f"<div>Files: <code>{escape(str(self.run_dir))}</code>; curves: "
            "<code>result.plot()</code></div></section>"
        )

    def _table(self) -> str:
        rows = self.rows[-_SHOWN_ROWS:]
        if not rows:
            return "<div>No epoch was finished.</div>"
        names = columns(rows)[:8]
        head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in names)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="{_CELL}">{escape(format_number(row.get(name)))}</td>'
                for name in names
            )
            + "</tr>"
            for row in rows
        )
        return (
            '<table style="border-collapse:collapse;font-size:13px;margin:8px 0">'
            "<thead><tr>"
            f"{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
