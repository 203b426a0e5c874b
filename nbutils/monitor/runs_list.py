"""Every run below a folder, in one table: how it stands and what it reached."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.config import resolve
from nbutils.errors import ConfigError, EnvironmentProblem
from nbutils.monitor.facts import format_bytes
from nbutils.monitor.names import better_direction, did_you_mean
from nbutils.monitor.record import RunRecord
from nbutils.monitor.runview import NO_METRIC, format_duration, format_number
from nbutils.monitor.standing import is_run, quick_record, standing
from nbutils.monitor.texttable import text_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["find_runs", "list_runs", "run_rows", "runs_text"]

_BY = {"started": True, "name": False, "duration_s": True, "size_bytes": True}
"""What a list can be sorted by besides metrics; whether the largest stands first."""

_COLUMNS = (
    *("name", "status", "stop_reason", "metric", "best", "steps", "planned_steps"),
    *("epochs", "duration_s", "recipe", "started", "size_bytes", "path"),
)


def list_runs(
    runs_dir: str | Path | None = None, sort: str = "started"
) -> pd.DataFrame:
    """One row for each run directory in a folder or in a folder of it.

    Args:
        runs_dir: The folder; by default ``runs_dir`` of the environment, else
            ``runs``.
        sort: ``started`` (newest first), ``best`` (each by its own monitored metric),
            ``name``, ``duration_s``, ``size_bytes``, or a metric, best first.

    Raises:
        EnvironmentProblem: There is no such folder.
        ConfigError: No run has a metric of that name.
    """
    import pandas as pd

    rows = run_rows(runs_dir, sort)
    return pd.DataFrame(rows, columns=list(rows[0] if rows else _COLUMNS))


def run_rows(
    runs_dir: str | Path | None = None, sort: str = "started"
) -> list[dict[str, Any]]:
    """The rows of :func:`list_runs` as plain data; ``None`` is what is not known."""
    folder = Path(runs_dir if runs_dir is not None else resolve().checkpoint.runs_dir)
    if not folder.is_dir():
        raise EnvironmentProblem(
            f"There is no folder {folder}; expected one with run directories in it. "
            "Pass its path, or set NBUTILS_RUNS_DIR."
        )
    rows = [_row(path, folder) for path in find_runs(folder)]
    more = (sort,) if sort not in (*_BY, "best") else ()
    return [
        {name: row.get(name) for name in _COLUMNS}
        | {name: row["_values"].get(name) for name in more}
        for row in _sorted(rows, sort)
    ]


def find_runs(folder: Path) -> Iterator[Path]:
    """Run directories in a folder, and in the folders in it that are none."""
    if is_run(folder):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if is_run(path):
            yield path
        else:
            inner = (p for p in sorted(path.iterdir()) if p.is_dir())
            yield from (p for p in inner if is_run(p))


def runs_text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    if not rows:
        return "No runs."
    names = ["name", "status", "reason", "best", "steps", "duration", "recipe"]
    names += ["started", "size"]
    more = [name for name in rows[0] if name not in _COLUMNS]
    cells = [[*_cells(row), *(_number(row[name]) for name in more)] for row in rows]
    right = (4, 5, *range(8, 9 + len(more)))
    return text_table([*names, *more], cells, right=right)


def _row(path: Path, folder: Path) -> dict[str, Any]:
    """What a folder tells; a damaged one says so and leaves the other rows alone."""
    name = path.name if path == folder else path.relative_to(folder).as_posix()
    common = {"name": name, "path": str(path.resolve()), "size_bytes": _size(path)}
    try:
        record = quick_record(path)
    except EnvironmentProblem as error:
        problem = str(error).partition(". ")[0]
        return {**common, "status": "damaged", "stop_reason": problem, "_values": {}}
    run, start, best = record.run, record.view.start, record.best
    began_s = run.get("created_s") or record.view.first_time_s
    recipe = record.settings.get("recipe", ("None", ""))[0]
    state = standing(path, run, record.status)
    is_over = state not in ("running", "killed")
    return {
        **common,
        "status": state,
        "stop_reason": record.stop_reason if is_over else None,
        "metric": best.get("metric"),
        "best": best.get("value"),
        "steps": max(record.view.step, int(run.get("step") or 0)),
        "planned_steps": start.get("planned_steps"),
        "epochs": len(record.view.rows),
        "duration_s": round(record.seconds, 3),
        "recipe": run.get("task") if recipe == "None" else recipe,
        "started": _moment(began_s),
        "_mode": record.settings.get("mode", ("min", ""))[0],
        "_values": _values(record),
    }


def _values(record: RunRecord) -> dict[str, float]:
    """The run's numbers at its best epoch, and those of its test."""
    step = record.best.get("step")
    at_best = [row for row in record.view.rows if row.get("step") == step]
    row = (at_best or record.view.rows or [{}])[-1]
    tested = record.run.get("test_metrics")
    tested = tested if isinstance(tested, dict) else {}
    numbers = {**row, **{f"test_{name}": value for name, value in tested.items()}}
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and name not in NO_METRIC
    }


def _sorted(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    if sort == "best":
        return sorted(rows, key=_rank_by_best)
    if sort in _BY:
        known = [row for row in rows if row.get(sort) is not None]
        known.sort(key=lambda row: row[sort], reverse=_BY[sort])
        return known + [row for row in rows if row.get(sort) is None]
    if not rows:
        return rows
    names = {name for row in rows for name in row["_values"]}
    if sort not in names:
        choices = [*_BY, "best", *sorted(names)]
        raise ConfigError([f"sort is {sort!r}; {did_you_mean(sort, choices)}"])
    sign = 1 if is_lower_better(sort, rows) else -1
    return sorted(rows, key=lambda row: _rank(row["_values"].get(sort), sign))


def _rank_by_best(row: dict[str, Any]) -> tuple[int, str, float]:
    """Runs that monitor the same stand together; the best of them first."""
    sign = 1 if row.get("_mode") == "min" else -1
    group, value = _rank(row.get("best"), sign)
    return group, str(row.get("metric")), value


def _rank(value: float | None, sign: int) -> tuple[int, float]:
    is_known = value is not None and math.isfinite(value)
    return (0, sign * value) if is_known and value is not None else (1, 0.0)


def is_lower_better(metric: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether small values stand first; what the runs monitor counts."""
    modes = [(str(r.get("metric")), str(r.get("_mode"))) for r in rows if "_mode" in r]
    return better_direction(metric, modes) != "higher"


def _cells(row: dict[str, Any]) -> list[str]:
    best = "-"
    if row.get("best") is not None:
        best = f"{row['metric']} {format_number(row['best'])}"
    planned = row.get("planned_steps")
    steps = format_number(row.get("steps")) + (f"/{planned:,}" if planned else "")
    duration_s = row.get("duration_s")
    return [
        str(row["name"]),
        str(row["status"]),
        _shortened(str(row.get("stop_reason") or "-")),
        best,
        steps,
        "-" if duration_s is None else format_duration(duration_s),
        str(row.get("recipe") or "-"),
        str(row.get("started") or "-")[:16].replace("T", " "),
        format_bytes(row["size_bytes"]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else format_number(value)


def _shortened(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _moment(time_s: Any) -> str | None:
    """A time as ISO 8601 of this machine's zone."""
    if not isinstance(time_s, (int, float)) or not math.isfinite(time_s):
        return None
    return datetime.fromtimestamp(time_s).astimezone().isoformat(timespec="seconds")


def _size(path: Path) -> int:
    """Bytes of all files; one that goes meanwhile, and a second link, count nothing."""
    total, seen = 0, set[tuple[int, int]]()
    for file in path.rglob("*"):
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        key = (status.st_dev, status.st_ino)
        if key not in seen and file.is_file() and not file.is_symlink():
            seen.add(key)
            total += status.st_size
    return total
