"""Runs as a comparison needs them: read from disk, or refused in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbutils.errors import ConfigError, EnvironmentProblem
from nbutils.monitor.record import RunRecord
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runs_list import find_runs
from nbutils.monitor.runview import NO_METRIC
from nbutils.monitor.standing import RUNNING, is_run, settings_of, standing

__all__ = ["ComparedRun", "read_runs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One run of a comparison.

    Args:
        name: Tells it from the others: the folder's name, longer where two are equal.
        path: Its folder.
        record: Events, ``run.json`` and settings as text.
        settings: Every setting by its flat name.
        status: How it stands, ``finished`` or something to know.
        final: Numbers of its last epoch, and those of its test.
        best: Numbers of its best epoch; its test's as well.
        facts: Where it ran, by the doctor's names.
        parts: Hashes of its model, code and data, as far as they are recorded.
    """

    name: str
    path: Path
    record: RunRecord = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    status: str
    final: Mapping[str, float]
    best: Mapping[str, float]
    facts: Mapping[str, str] = field(repr=False)
    parts: Mapping[str, str] = field(repr=False)

    @property
    def seed(self) -> Any:
        """The setting ``seed``."""
        return self.settings.get("seed")

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that decides what is best, and ``min`` or ``max``."""
        settings = self.settings
        mode = settings.get("mode") or "min"
        return str(settings.get("monitor") or "val_loss"), str(mode)

    @property
    def is_whole(self) -> bool:
        """Whether it ended by its own plan."""
        return self.status == "finished"


def read_runs(runs: Iterable[Any]) -> list[ComparedRun]:
    """The runs of folders, or of results with a ``run_dir``.

    Raises:
        ConfigError: Fewer than two, one of them twice, or no list at all.
        EnvironmentProblem: No run there, one that is under way, or without an epoch.
    """
    if isinstance(runs, (str, Path)) or hasattr(runs, "run_dir"):
        raise ConfigError(
            [f"runs is {str(runs)!r}; it must be a list of run directories or results."]
        )
    paths = [Path(getattr(run, "run_dir", run)) for run in runs]
    if len(paths) == 1 and not is_run(paths[0]):
        raise EnvironmentProblem(_no_run(paths[0]))
    if len(paths) < 2:
        raise ConfigError(
            [f"runs holds {len(paths)}; a comparison needs at least 2 run directories."]
        )
    twice = [p for at, p in enumerate(paths) if p.resolve() in _resolved(paths[:at])]
    if twice:
        raise ConfigError([f"runs holds {twice[0]} twice; give each run once."])
    names = _names(paths)
    return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def _resolved(paths: Sequence[Path]) -> set[Path]:
    return {path.resolve() for path in paths}


def _names(paths: Sequence[Path]) -> list[str]:
    """As many last parts of each path as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(path: Path, name: str) -> ComparedRun:
    if not path.is_dir() or not is_run(path):
        raise EnvironmentProblem(_no_run(path))
    record = RunRecord.read(path)
    status = standing(path, record.run, record.status)
    if status == RUNNING:
        raise EnvironmentProblem(
            f"{path} is still running, at step {record.view.step}; expected runs that "
            "have ended. Wait for it, or leave it out; `nbutils watch` shows it."
        )
    if not record.view.rows:
        raise EnvironmentProblem(
            f"{path} has not finished an epoch ({record.stop_reason}); expected at "
            "least one, since its numbers are what is compared. Leave it out."
        )
    tested = _tested(record.run)
    return ComparedRun(
        name=name,
        path=path,
        record=record,
        settings=settings_of(path),
        status=status,
        final=_numbers(record.view.rows[-1]) | tested,
        best=_at_best(record) | tested,
        facts=_facts(path),
        parts=_parts(record.run),
    )


def _no_run(path: Path) -> str:
    if not path.exists():
        return (
            f"There is no folder {path}; expected a run directory. `nbutils runs` "
            "lists those there are."
        )
    inner = [str(p) for p in find_runs(path)][:4] if path.is_dir() else []
    there = "`nbutils runs` lists those there are."
    if inner:
        there = f"Runs in it: {', '.join(inner)}; name them."
    return (
        f"{path} holds no run: there is no events.jsonl in it. Expected a run "
        f"directory such as runs/my-run. {there}"
    )


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and name not in NO_METRIC
    }


def _tested(run: Mapping[str, Any]) -> dict[str, float]:
    found = run.get("test_metrics")
    numbers = _numbers(found) if isinstance(found, dict) else {}
    return {f"test_{name}": value for name, value in numbers.items()}


def _at_best(record: RunRecord) -> dict[str, float]:
    """The row of the best epoch; the last one's where none is recorded as best."""
    best = record.best
    rows = [row for row in record.view.rows if row.get("step") == best.get("step")]
    found = _numbers((rows or record.view.rows)[-1])
    value = best.get("value")
    if best.get("metric") and isinstance(value, (int, float)) and math.isfinite(value):
        found[str(best["metric"])] = float(value)
    return found


def _facts(path: Path) -> dict[str, str]:
    """The doctor's facts; each package stands by its own name."""
    found = (RunDirectory(path).read_json("environment.json") or {}).get("facts")
    facts = {str(name): str(text) for name, text in dict(found or {}).items()}
    packages = facts.pop("packages", "")
    for item in filter(None, packages.split(", ")):
        name, _, version = item.rpartition(" ")
        facts[f"package {name}"] = version
    return facts


def _parts(run: Mapping[str, Any]) -> dict[str, str]:
    """Flat hashes: of the preflight verdict, or of the run's own record."""
    verdict = run.get("verdict") or {}
    parts = (verdict.get("parts") if isinstance(verdict, dict) else None) or {}
    parts = parts or run.get("parts") or {}
    flat: dict[str, str] = {}
    for kind in ("model", "code", "data"):
        found = parts.get(kind)
        if isinstance(found, dict):
            flat.update({f"{kind} {name}": str(value) for name, value in found.items()})
        elif found is not None:
            flat[kind] = str(found)
    if run.get("task_fingerprint"):
        flat["all"] = str(run["task_fingerprint"])
    return flat
