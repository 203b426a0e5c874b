"""``compare_runs``: what differs between runs, and how sure the difference is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.errors import ConfigError
from nbutils.monitor.comparison.differences import (
    data_note,
    differing,
    environment,
    fingerprints,
)
from nbutils.monitor.comparison.groups import Group, group_runs
from nbutils.monitor.comparison.judging import Judgement, judge
from nbutils.monitor.comparison.notes import notes_of
from nbutils.monitor.comparison.reading import ComparedRun, read_runs
from nbutils.monitor.comparison.tables import (
    cost_row,
    group_row,
    metric_row,
    test_row,
)
from nbutils.monitor.jsontext import dumps
from nbutils.monitor.names import better_direction, did_you_mean
from nbutils.monitor.rundir import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Comparison", "compare_runs"]


def compare_runs(runs: Iterable[Any], metric: str | None = None) -> Comparison:
    """Settings, numbers, curves, machines, data and cost of runs, side by side.

    Runs that differ in ``seed`` alone are one group. Groups are compared by the
    metric's value at each run's best epoch: Welch's t-test, a permutation test, an
    interval and an effect size, by pairs too where both have the same seeds, and
    corrected by Holm's method where there are more than two groups.

    Args:
        runs: Run directories, or results of ``train()``; at least two.
        metric: What is compared, such as ``val_accuracy`` or ``test_accuracy``; by
            default what the runs monitor.

    Raises:
        EnvironmentProblem: A folder holds no run, one under way, or no epoch yet.
        ConfigError: Fewer than two runs, or a metric that no run has.
    """
    found = read_runs(runs)
    chosen = _metric(found, metric)
    better = better_direction(chosen, {run.monitor for run in found})
    groups = group_runs(found, chosen)
    return Comparison(
        runs=found,
        metric=chosen,
        better=better,
        group_list=groups,
        judgements=judge(groups, better) if len(groups) > 1 else [],
        notes=[*_data(found), *notes_of(found, groups, chosen)],
    )


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs side by side; tables as data frames, a page, a text and a figure.

    Args:
        runs: The runs, in the order given.
        metric: What they are compared by.
        better: ``lower``, ``higher``, or nothing where that is not known.
        group_list: Runs that differ in their seed alone, together.
        judgements: Every two groups against each other.
        notes: What to know before reading on: ``(severity, sentence)``.
    """

    runs: Sequence[ComparedRun]
    metric: str
    better: str
    group_list: Sequence[Group] = field(repr=False)
    judgements: Sequence[Judgement] = field(repr=False)
    notes: Sequence[tuple[str, str]] = field(repr=False)

    @cached_property
    def configs(self) -> pd.DataFrame:
        """Settings that differ: one row each, one column a run."""
        return self._by_run(differing(self.runs), "setting")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a run: status, reason, group, seed, best and final numbers."""
        letters = {
            run.name: group.label.partition(":")[0]
            for group in self.group_list
            for run in group.runs
        }
        rows = [metric_row(run, letters[run.name]) for run in self.runs]
        return self._of_runs(rows)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """One row a run: duration, steps, epochs, pace, refusals, resumes."""
        return self._of_runs([cost_row(run) for run in self.runs])

    @cached_property
    def environment(self) -> pd.DataFrame:
        """Devices, versions and machines that differ: one row each."""
        return self._by_run(environment(self.runs), "fact")

    @cached_property
    def fingerprints(self) -> dict[str, bool | None]:
        """Whether model, code and data are equal in all runs; none: not recorded."""
        return fingerprints(self.runs)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row a group: n, mean and standard deviation over its seeds."""
        import pandas as pd

        return pd.DataFrame([group_row(group) for group in self.group_list])

    @cached_property
    def tests(self) -> pd.DataFrame:
        """One row for each two groups: difference, interval, effect, p, verdict."""
        import pandas as pd

        return pd.DataFrame([test_row(found) for found in self.judgements])

    def plot(self) -> Figure:
        """Curves and values of all runs, coloured by group, for a slide."""
        from nbutils.monitor.comparison.figure import plot_comparison

        return plot_comparison(self.runs, self.group_list, self.metric, self.judgements)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; ``None`` where a number is not known."""
        values = {
            "metric": self.metric,
            "better": self.better or None,
            "notes": [{"severity": s, "text": text} for s, text in self.notes],
            "configs": differing(self.runs),
            "environment": environment(self.runs),
            "fingerprints": self.fingerprints,
            "runs": [
                {"name": run.name, "path": str(run.path), **cost_row(run)}
                | {"best": dict(run.best), "final": dict(run.final)}
                | {"status": run.status, "stop_reason": run.record.stop_reason}
                for run in self.runs
            ],
            "groups": [group_row(group) for group in self.group_list],
            "tests": [test_row(found) for found in self.judgements],
        }
        return _finite(values)

    def to_json(self) -> str:
        """The same as JSON text."""
        return dumps(self.to_dict(), indent=2)

    def to_html(self) -> str:
        """A page of its own: one file that needs no network and runs no script."""
        from nbutils.monitor.comparison.page import whole_page

        return whole_page(self)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, whole or not at all."""
        return write_atomic(Path(path), self.to_html().encode("utf-8"))

    def __str__(self) -> str:
        from nbutils.monitor.comparison.text import comparison_text

        return comparison_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from nbutils.monitor.comparison.page import comparison_html

        return comparison_html(self)

    def _by_run(self, table: dict[str, list[Any]], index: str) -> pd.DataFrame:
        import pandas as pd

        names = [run.name for run in self.runs]
        frame = pd.DataFrame(
            list(table.values()), index=list(table), columns=names, dtype=object
        )
        return frame.rename_axis(index)

    def _of_runs(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        import pandas as pd

        names = [run.name for run in self.runs]
        return pd.DataFrame(rows, index=names).rename_axis("run")


def _metric(runs: Sequence[ComparedRun], metric: str | None) -> str:
    """The metric that was asked for, or the one that the runs monitor."""
    in_all = set.intersection(*(set(run.best) for run in runs))
    in_any = {name for run in runs for name in run.best}
    if metric is not None:
        if metric in in_any:
            return metric
        raise ConfigError([f"metric is {metric!r}; {did_you_mean(metric, in_any)}"])
    monitored = dict.fromkeys(run.monitor[0] for run in runs)
    if len(monitored) == 1 and (name := next(iter(monitored))) in in_any:
        return name
    for name in (*monitored, "val_loss", "train_loss"):
        if name in in_all:
            return name
    raise ConfigError(
        [
            "metric is not given, and the runs monitor "
            f"{', '.join(monitored)}, which not all of them have. Choose one: "
            f"{', '.join(sorted(in_all or in_any))}."
        ]
    )


def _data(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    note = data_note(runs)
    return [] if note is None else [note]


def _finite(value: Any) -> Any:
    """Plain data in which what is not finite is ``None``."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
