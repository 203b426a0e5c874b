"""How a run stands: finished, under way, or killed without a word."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import Event, read_events
from nbutils.monitor.jsontext import loads
from nbutils.monitor.lock import is_held
from nbutils.monitor.record import RunRecord
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import RunView

__all__ = [
    "KILLED",
    "RUNNING",
    "is_run",
    "quick_record",
    "settings_of",
    "standing",
]

RUNNING = "running"
KILLED = "killed"
_QUIET_S = 600.0
"""A run that wrote nothing for so long, and whose lock cannot be asked, is dead."""

_DENSE = tuple(
    f'"kind":"{kind}"'.encode() for kind in ("step", "monitor", "histogram", "examples")
)


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory."""
    return (path / "events.jsonl").is_file() or (path / "run.json").is_file()


def standing(path: Path, run: Mapping[str, Any], otherwise: str = "unknown") -> str:
    """``finished``, ``stopped``, ``failed``, ``interrupted``, ``running``, ``killed``.

    ``killed``: the record says that it runs, and no process holds it.

    Args:
        path: The run directory.
        run: What its ``run.json`` says.
        otherwise: The status where that file has none.
    """
    recorded = str(run.get("status") or otherwise)
    if recorded != RUNNING:
        return recorded
    held = is_held(path)
    if held is None:
        held = _seconds_since_event(path) < _QUIET_S
    return RUNNING if held else KILLED


def settings_of(path: Path) -> dict[str, Any]:
    """Every setting of a run by its flat name, as ``config.yaml`` holds it.

    Raises:
        EnvironmentProblem: The file is damaged.
    """
    file = RunDirectory(path).config_path
    if not file.exists():
        return {}
    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(file, str(error).splitlines()[0]) from error
    if not isinstance(sections, dict):
        raise _damaged(file, f"it holds a {type(sections).__name__}")
    found: dict[str, Any] = {}
    for name, value in sections.items():
        is_section = isinstance(value, dict) and name not in ("recipe",)
        found.update(value if is_section else {name: value})
    return found


def quick_record(path: Path) -> RunRecord:
    """The record of a run without its dense events, of which the last step stays.

    A list of hundreds of runs is to appear at once; curves need the whole log.

    Raises:
        EnvironmentProblem: A file in the folder is damaged.
    """
    directory = RunDirectory(path)
    events = _sparse_events(directory.events_path)
    settings = settings_of(directory.path)
    return RunRecord(
        path=directory.path,
        events=events,
        view=RunView.from_events(events),
        run=directory.read_json("run.json") or {},
        settings={name: (str(value), "") for name, value in settings.items()},
    )


def _sparse_events(path: Path) -> list[Event]:
    """Events without those of every step; the last step tells how far the run is."""
    if not path.is_file():
        return []
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    kept: list[bytes] = []
    last_step = b""
    for line in whole.splitlines():
        head = line[:80]
        if _DENSE[0] in head:
            last_step = line
        elif not any(kind in head for kind in _DENSE):
            kept += [last_step, line] if last_step else [line]
            last_step = b""
    kept += [last_step] if last_step else []
    try:
        events = [loads(line) for line in kept]
    except ValueError:
        return read_events(path)  # which says what is wrong with which line
    is_whole = all(isinstance(event, dict) and "kind" in event for event in events)
    return events if is_whole else read_events(path)


def _damaged(file: Path, reason: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{file} cannot be read: {reason}. Expected the settings of a run. Restore it "
        "from a copy, or leave this run out."
    )


def _seconds_since_event(path: Path) -> float:
    log = RunDirectory(path).events_path
    return time.time() - log.stat().st_mtime if log.exists() else float("inf")
