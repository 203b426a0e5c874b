"""A run as its directory tells it: the ground of report, result and dashboards."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbutils.monitor.events import Event, read_events
from nbutils.monitor.rundir import RunDirectory, write_atomic
from nbutils.monitor.runview import RunView

__all__ = [
    "RunRecord",
    "best_row",
    "metrics_csv",
    "read_settings",
    "write_metrics_csv",
]

_SETTING = re.compile(r"^\s*(?P<name>\w+): (?P<value>.*?)(?:  # (?P<origin>.+))?$")
UNKNOWN_END = "not recorded: it is still running, or its process was killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Events, ``run.json`` and settings of one run directory."""

    path: Path
    events: Sequence[Event] = field(repr=False)
    view: RunView = field(repr=False)
    run: Mapping[str, Any]
    settings: Mapping[str, tuple[str, str]]
    """Every setting as text, with its origin; an empty origin means default."""

    @classmethod
    def read(cls, path: str | Path) -> RunRecord:
        """The record on disk; what is missing stays empty."""
        directory = RunDirectory(path)
        events = read_events(directory.events_path)
        return cls(
            path=directory.path,
            events=events,
            view=RunView.from_events(events),
            run=directory.read_json("run.json") or {},
            settings=read_settings(directory.config_path),
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def status(self) -> str:
        """How the run stands, in one word where that is known."""
        return str(self.view.end.get("status") or self.run.get("status") or "unknown")

    @property
    def stop_reason(self) -> str:
        """Why the run ended; says so when that is not recorded."""
        view = self.view
        found = view.end.get("reason") or view.stop.get("reason")
        found = found or self.run.get("stop_reason")
        return str(found or UNKNOWN_END)

    @property
    def seconds(self) -> float:
        """Duration: of the last process where it said so, else the events' span."""
        return float(self.view.end.get("seconds") or self.view.seconds)

    @property
    def best(self) -> dict[str, Any]:
        """Metric, value, step and checkpoint path of the best epoch; may be empty."""
        if recorded := self.run.get("best"):
            return dict(recorded)
        metric, _ = self.settings.get("monitor", ("val_loss", ""))
        mode, _ = self.settings.get("mode", ("min", ""))
        saved = self.view.best_checkpoint
        at_save = [
            row for row in self.view.rows if row.get("step") == saved.get("step")
        ]
        if found := best_row(at_save, metric, mode):
            return found | {"path": saved.get("path")}
        return best_row(self.view.rows, metric, mode)


def best_row(
    rows: Iterable[Mapping[str, Any]], metric: str, mode: str
) -> dict[str, Any]:
    """Metric, value, step and epoch of the best row; empty without a finite value.

    Example:
        >>> best_row([{"epoch": 1, "step": 9, "val_loss": 0.5}], "val_loss", "min")
        {'metric': 'val_loss', 'value': 0.5, 'step': 9, 'epoch': 1}
    """
    known = [row for row in rows if _is_finite(row.get(metric))]
    if not known:
        return {}
    choose = min if mode == "min" else max
    row = choose(known, key=lambda row: row[metric])
    return {
        "metric": metric,
        "value": row[metric],
        "step": row.get("step"),
        "epoch": row.get("epoch"),
    }


def metrics_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text; a value that a row lacks is an empty cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_metrics_csv(run_dir: str | Path) -> Path:
    """Write ``metrics.csv``: one line per finished epoch, from the event log."""
    view = RunView.from_events(read_events(RunDirectory(run_dir).events_path))
    text = metrics_csv(view.rows)
    return write_atomic(Path(run_dir) / "metrics.csv", text.encode("utf-8"))


def read_settings(path: Path) -> dict[str, tuple[str, str]]:
    """Leaves of ``config.yaml``; an origin stands behind each changed value."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [match for line in lines if (match := _SETTING.match(line))]
    return {
        match["name"]: (match["value"].strip("'\""), match["origin"] or "")
        for match in found
    }


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
