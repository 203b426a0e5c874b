"""The tables of a comparison as texts, for the page and for the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbutils.monitor.comparison.groups import Group
from nbutils.monitor.comparison.tables import cost_row, metric_row, test_row
from nbutils.monitor.runview import format_duration, format_number

if TYPE_CHECKING:
    from nbutils.monitor.comparison.result import Comparison

__all__ = ["Table", "differences_table", "tables_of", "title_of"]

_MAX_METRICS = 6
_MAX_SENTENCES = 3
_MAX_PAIRS = 40
_MAX_COLUMNS = 8
_WIDEST = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A heading, columns and rows; ``right``: numbers of columns set to the right."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    note: str = ""


def title_of(found: Comparison) -> str:
    """What is compared, by what."""
    direction = f", {found.better} is better" if found.better else ""
    num_groups = len(found.group_list)
    noun = "setting" if num_groups == 1 else "settings"
    return (
        f"{len(found.runs)} runs of {num_groups} {noun}, by {found.metric}{direction}"
    )


def tables_of(found: Comparison) -> list[Table]:
    """Every table that has something to say."""
    tables = [_groups(found), _runs(found), _settings(found), _machines(found)]
    tables += [_identity(found), _cost(found)]
    return [table for table in tables if table.rows or table.note]


def differences_table(found: Comparison) -> Table | None:
    """Many comparisons as a table; none where there are few enough for sentences."""
    if len(found.judgements) <= _MAX_SENTENCES:
        return None
    rows = [
        [
            f"{row['b']} - {row['a']}",
            _number(row["difference"]),
            _interval(row),
            _number(row["effect_size"]),
            _number(row["p_exact_holm"]),
            _number(row["p_t_holm"]),
            row["verdict"],
        ]
        for row in map(test_row, found.judgements[:_MAX_PAIRS])
    ]
    names = ["", "difference", "95 % interval", "Hedges' g", "p, exact", "p, t-test"]
    left_out = len(found.judgements) - len(rows)
    more = f" {left_out} more are in .tests." if left_out else ""
    return Table(
        title="Differences",
        names=[*names, "verdict"],
        rows=rows,
        right=(1, 2, 3, 4, 5),
        note=f"p-values are corrected for {len(found.judgements)} comparisons (Holm); "
        f"the verdict follows the exact one, which assumes no shape of the "
        f"scatter.{more}",
    )


def _interval(row: dict[str, Any]) -> str:
    if math.isnan(row["ci_low"]):
        return "-"
    return f"{format_number(row['ci_low'])} to {format_number(row['ci_high'])}"


def _groups(found: Comparison) -> Table:
    rows = [
        [
            group.label,
            str(group.n),
            _spread(group),
            _number(min(group.values, default=None)),
            _number(max(group.values, default=None)),
            ", ".join(map(str, group.by_seed)),
        ]
        for group in found.group_list
    ]
    names = ["setting", "n", f"{found.metric}, mean ± std", "lowest", "highest"]
    return Table(
        title="Settings, each over its seeds",
        names=[*names, "seeds"],
        rows=rows,
        right=(1, 2, 3, 4),
    )


def _spread(group: Group) -> str:
    if not group.n:
        return "-"
    return f"{_number(group.mean)} ± {_number(group.std) if group.n > 1 else 'unknown'}"


def _runs(found: Comparison) -> Table:
    letters = {
        run.name: group.label.partition(":")[0]
        for group in found.group_list
        for run in group.runs
    }
    rows = [metric_row(run, letters[run.name]) for run in found.runs]
    known = list(dict.fromkeys(name for row in rows for name in row))
    wanted = [f"best_{found.metric}", f"final_{found.metric}", found.metric]
    first = [name for name in wanted if name in known]
    rest = [
        name
        for name in known
        if name not in first and name.startswith(("best_val", "test_"))
    ]
    shown = (first + rest)[:_MAX_METRICS]
    names = ["run", "of", "seed", "ended", "best epoch", *shown]
    body = [
        [
            run.name,
            str(row["group"]),
            str(row["seed"]),
            _ended(row),
            _number(row["best_epoch"]),
            *(_number(row.get(name)) for name in shown),
        ]
        for run, row in zip(found.runs, rows, strict=True)
    ]
    right = (2, *range(4, len(names)))
    return Table(title="Runs", names=names, rows=body, right=right)


def _ended(row: dict[str, Any]) -> str:
    reason = _short(str(row["stop_reason"]))
    is_plain = row["status"] == "finished"
    return reason if is_plain else str(row["status"]) + f": {reason}"


def _settings(found: Comparison) -> Table:
    return _by_group(
        found, "Settings that differ", found.configs, "All settings are the same."
    )


def _machines(found: Comparison) -> Table:
    note = "Device, number format, versions and machine are the same."
    return _by_group(found, "Machines", found.environment, note)


def _by_group(found: Comparison, title: str, frame: Any, if_equal: str) -> Table:
    """One column a group, or a run where each stands alone; equal values told once."""
    if frame.empty:
        return Table(title=title, names=[], rows=[], note=if_equal)
    columns = {g.label.partition(":")[0]: g.runs for g in found.group_list}
    left_out = list(columns)[_MAX_COLUMNS:]
    shown = {k: v for k, v in columns.items() if k not in left_out}
    heads = [f"{k}: {v[0].name}" if len(v) == 1 else k for k, v in shown.items()]
    rows = [
        [str(name), *(_values(frame, name, runs) for runs in shown.values())]
        for name in frame.index
    ]
    more = f"{len(left_out)} more settings are left out here." if left_out else ""
    return Table(title=title, names=["", *heads], rows=rows, note=more)


def _values(frame: Any, name: str, runs: Sequence[Any]) -> str:
    values = dict.fromkeys(_shown(frame.at[name, run.name]) for run in runs)
    return _short(", ".join(values))


def _identity(found: Comparison) -> Table:
    words = {True: "the same", False: "DIFFERENT", None: "not recorded by all runs"}
    note = "A hash of a split covers its type, its length and its first sample."
    title, parts = "Model, code and data", found.fingerprints
    if all(parts.values()):
        return Table(
            title=title, names=[], rows=[], note=f"The same in all runs. {note}"
        )
    rows = [[name, words[equal]] for name, equal in parts.items()]
    return Table(title=title, names=["part", "is"], rows=rows, note=note)


def _cost(found: Comparison) -> Table:
    rows = [
        [
            run.name,
            _took(row["duration_s"]),
            format_number(row["steps"])
            + (f"/{row['planned_steps']:,}" if row["planned_steps"] else ""),
            format_number(row["epochs"]),
            _number(row["samples_per_s"]),
            _number(row["parameters"]),
            format_number(row["refused"]),
            format_number(row["resumes"]),
        ]
        for run in found.runs
        for row in [cost_row(run)]
    ]
    names = ["run", "duration", "steps", "epochs", "samples/s", "parameters"]
    return Table(
        title="Cost",
        names=[*names, "refused", "resumes"],
        rows=rows,
        right=tuple(range(1, 8)),
    )


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)


def _number(value: Any) -> str:
    is_missing = value is None or value != value  # NaN
    return "-" if is_missing else format_number(value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
