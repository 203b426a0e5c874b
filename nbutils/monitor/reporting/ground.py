"""What the report rests on: a run's files, read as far as they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import Event, read_events
from nbutils.monitor.jsontext import loads
from nbutils.monitor.record import RunRecord, read_settings
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import RunView
from nbutils.monitor.standing import KILLED, RUNNING, standing

__all__ = ["Ground", "has_run"]

_FILES = ("events.jsonl", "run.json", "config.yaml", "preflight.json")
_ENDS = {
    "finished": ("pass", "finished"),
    "stopped": ("warn", "stopped before its plan was fulfilled"),
    "failed": ("fail", "failed"),
    "interrupted": ("warn", "interrupted"),
    RUNNING: ("info", "still running when this was written"),
    KILLED: ("fail", "killed: no end was recorded and no process holds it"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The record of a run, and what of it could not be read.

    Attributes:
        record: Events, ``run.json`` and settings.
        environment: Facts of the machine.
        preflight: What the checks found.
        status: ``finished``, ``stopped``, ``failed``, ``interrupted``, ``running``,
            ``killed`` or ``unknown``.
        problems: A sentence for each file, or part of one, that is damaged.
        price_per_hour: Of the machine; none if not known.
    """

    record: RunRecord
    environment: Mapping[str, Any]
    preflight: Mapping[str, Any]
    status: str
    problems: Sequence[str]
    price_per_hour: float | None = None
    tests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What was measured on test data, by kind of weights."""

    @classmethod
    def read(cls, path: Path, price_per_hour: float | None = None) -> Ground:
        """Everything that can be read; a damaged file is named and stops nothing."""
        problems: list[str] = []
        directory = RunDirectory(path)
        events = _events(directory.events_path, problems)
        run = _json(directory, "run.json", problems)
        record = RunRecord(
            path=directory.path,
            events=events,
            view=_view(events, problems),
            run=run,
            settings=_settings(directory.config_path, problems),
        )
        told = run.get("price_per_hour")
        if price_per_hour is None and isinstance(told, (int, float)):
            price_per_hour = float(told)
        return cls(
            record=record,
            environment=_json(directory, "environment.json", problems),
            preflight=_json(directory, "preflight.json", problems),
            status=standing(path, run, otherwise=record.status),
            problems=problems,
            price_per_hour=price_per_hour,
            tests=_tests(run),
        )

    @property
    def ending(self) -> tuple[str, str]:
        """Sign and words for how the run stands."""
        return _ENDS.get(self.status, ("info", "how it ended is not recorded"))


def has_run(path: Path) -> bool:
    """Whether anything of a run lies in a folder."""
    return any((path / name).exists() for name in _FILES)


def _tests(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Recorded tests; an older record has the numbers alone."""
    found = run.get("tests")
    if isinstance(found, Mapping):
        known = {str(k): v for k, v in found.items() if isinstance(v, Mapping)}
        return {k: v for k, v in known.items() if isinstance(v.get("metrics"), Mapping)}
    metrics = run.get("test_metrics")
    if not isinstance(metrics, Mapping) or not metrics:
        return {}
    name = str(run.get("test_weights") or "last")
    return {name: {"metrics": metrics, "step": run.get("test_step")}}


def _json(directory: RunDirectory, name: str, problems: list[str]) -> dict[str, Any]:
    try:
        return directory.read_json(name) or {}
    except (EnvironmentProblem, OSError) as error:
        problems.append(str(error))
        return {}


def _settings(path: Path, problems: list[str]) -> dict[str, tuple[str, str]]:
    try:
        return read_settings(path)
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}


def _events(path: Path, problems: list[str]) -> list[Event]:
    """All events; of a damaged log, the lines that are whole."""
    try:
        return read_events(path)
    except (EnvironmentProblem, OSError) as error:
        problems.append(str(error))
        if not path.is_file():
            return []
    found: list[Event] = []
    lines = path.read_bytes().splitlines()
    for line in lines:
        try:
            event = loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("kind"), str):
            found.append(event)
    problems.append(f"{len(lines) - len(found)} of {len(lines)} lines were left out.")
    return found


def _view(events: Sequence[Event], problems: list[str]) -> RunView:
    view, num_odd = RunView(), 0
    for event in events:
        try:
            view.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError):
            num_odd += 1
    if num_odd:
        problems.append(f"{num_odd} events lack a field that they need; left out.")
    return view
