"""A run directory in a terminal: its last epochs, how it stands, what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.display import TextPanel, progress_line
from nbutils.monitor.events import follow
from nbutils.monitor.record import RunRecord
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import columns, format_duration, format_number

__all__ = ["epoch_table", "follow_run", "summary"]


def summary(run_dir: str | Path, num_epochs: int = 12) -> str:
    """The last epochs as a table, then the status of the run.

    Raises:
        EnvironmentProblem: The folder holds no ``events.jsonl``.
    """
    record = _record(run_dir)
    rows = record.view.rows
    lines = [f"Run {record.name} in {record.path}: {record.status}"]
    if len(rows) > num_epochs:
        lines.append(f"(the last {num_epochs} of {len(rows)} epochs)")
    lines += [epoch_table(rows[-num_epochs:])] if rows else []
    lines.append(progress_line(record.view))
    if record.view.end:
        took = format_duration(record.seconds)
        lines.append(f"Ended after {took}: {record.stop_reason}")
    return "\n".join(lines)


def epoch_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as aligned text, one column for each number that any row has.

    Example:
        >>> print(epoch_table([{"epoch": 1, "train_loss": 0.5}]))
        epoch  train_loss
            1         0.5
    """
    names = list(dict.fromkeys(["epoch", *columns(rows)]))
    cells = [names] + [[format_number(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def follow_run(run_dir: str | Path, poll_s: float = 0.5) -> None:
    """Write what happens from now on as text lines, until the run ends."""
    record = _record(run_dir)
    panel = TextPanel()
    for event in record.events:
        panel.view.apply(event)
    for event in _new_events(record, poll_s):
        panel.update(event)


def _new_events(record: RunRecord, poll_s: float) -> Iterator[dict[str, Any]]:
    path = RunDirectory(record.path).events_path
    return islice(follow(path, poll_s=poll_s), len(record.events), None)


def _record(run_dir: str | Path) -> RunRecord:
    events = RunDirectory(run_dir).events_path
    if not events.is_file():
        raise EnvironmentProblem(
            f"{run_dir} holds no {events.name}; expected a run directory. Pass the "
            "folder that the run printed, for example runs/<name>."
        )
    return RunRecord.read(run_dir)
