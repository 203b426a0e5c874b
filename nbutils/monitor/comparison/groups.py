"""Runs that differ in their seed alone are one group: its mean and its scatter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nbutils.config.leaves import LEAVES
from nbutils.monitor.comparison.reading import ComparedRun

__all__ = ["Group", "group_runs", "letters"]

_WITHOUT_EFFECT = ("checkpoint", "tracking", "preflight", "display")
"""Sections of the settings that leave the trained weights as they are."""

_BY_SEED = ("data", "all")
"""Hashes that a seed may change, where it draws the split."""

_MAX_TOLD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Repetitions of one setting.

    Args:
        label: The settings by which it differs from the other groups, or a run's name.
        runs: Its runs.
        by_seed: The metric's value for each seed; repeats of a seed are averaged,
            since they say nothing about other seeds.
        left_out: Runs whose value is missing or not finite.
    """

    label: str
    runs: Sequence[ComparedRun] = field(repr=False)
    by_seed: dict[Any, float]
    left_out: Sequence[str] = ()

    @property
    def values(self) -> list[float]:
        """One value a seed."""
        return list(self.by_seed.values())

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN without any."""
        return statistics.fmean(self.values) if self.by_seed else math.nan

    @property
    def std(self) -> float:
        """Standard deviation over the seeds (n - 1); NaN of fewer than two."""
        return statistics.stdev(self.values) if self.n > 1 else math.nan


def group_runs(runs: Sequence[ComparedRun], metric: str) -> list[Group]:
    """Groups in the order of their first run, lettered from A on."""
    recorded = [{n for n in run.parts if not n.startswith(_BY_SEED)} for run in runs]
    common = sorted(set.intersection(*recorded)) if recorded else []
    members: dict[Any, list[ComparedRun]] = {}
    for run in runs:
        members.setdefault(_key(run, common), []).append(run)
    first = [found[0] for found in members.values()]
    return [
        _group(found, metric, f"{letters(at)}: {_label(found, first)}")
        for at, found in enumerate(members.values())
    ]


def letters(number: int) -> str:
    """``A`` to ``Z``, then ``AA`` and on.

    Example:
        >>> letters(0), letters(25), letters(26)
        ('A', 'Z', 'AA')
    """
    text = ""
    while number >= 0:
        number, rest = divmod(number, 26)
        text, number = chr(ord("A") + rest) + text, number - 1
    return text


def _label(runs: Sequence[ComparedRun], first: Sequence[ComparedRun]) -> str:
    """What sets a group apart, such as ``lr=0.01, optimizer=sgd``."""
    names = dict.fromkeys(name for run in first for name in _settings(run))
    told = [
        f"{name}={_shown(runs[0].settings.get(name))}"
        for name in names
        if len({repr(run.settings.get(name)) for run in first}) > 1
    ]
    more = len(told) - _MAX_TOLD
    told = [*told[:_MAX_TOLD], *([f"and {more} more"] if more > 0 else [])]
    alike = [run for run in first if _settings(run) == _settings(runs[0])]
    if len(alike) > 1:  # the same settings on another model, or with other code
        told.append(_subject(runs[0], alike))
    return ", ".join(told) or runs[0].name


def _subject(run: ComparedRun, alike: Sequence[ComparedRun]) -> str:
    """What is trained, as far as it sets the run apart."""
    sizes = [other.record.view.start.get("num_parameters") for other in alike]
    tasks = [other.record.run.get("task") for other in alike]
    found = [str(run.record.run.get("task"))] if len(set(tasks)) > 1 else []
    if len(set(sizes)) > 1:
        found.append(f"{run.record.view.start.get('num_parameters'):,} parameters")
    return " of ".join(found) or f"code as in {run.name}"


def _group(runs: Sequence[ComparedRun], metric: str, label: str) -> Group:
    by_seed: dict[Any, list[float]] = {}
    left_out: list[str] = []
    for run in runs:
        value = run.best.get(metric, math.nan)
        if math.isfinite(value):
            by_seed.setdefault(run.seed, []).append(value)
        else:
            left_out.append(run.name)
    means = {seed: statistics.fmean(found) for seed, found in by_seed.items()}
    return Group(label=label, runs=runs, by_seed=means, left_out=left_out)


def _key(run: ComparedRun, common: Sequence[str]) -> tuple[Any, ...]:
    """Equal for runs that differ in their seed alone; data may be drawn by the seed."""
    settings = tuple(sorted((k, repr(v)) for k, v in _settings(run).items()))
    made_of = tuple(run.parts[name] for name in common)
    size = run.record.view.start.get("num_parameters")
    alone = None if run.settings else str(run.path)  # nothing says that it repeats
    return settings, run.record.run.get("task"), size, made_of, alone


def _settings(run: ComparedRun) -> dict[str, Any]:
    return {
        name: value
        for name, value in run.settings.items()
        if LEAVES.get(name) not in _WITHOUT_EFFECT
        and name not in ("seed", "schema_version")
    }


def _shown(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
