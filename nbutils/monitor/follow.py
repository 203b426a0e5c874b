"""Looking on at a run from its directory: what is new, and whether it is alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import Event, read_events
from nbutils.monitor.jsontext import loads
from nbutils.monitor.lock import is_held
from nbutils.monitor.process import is_alive, process_of
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runview import RunView

__all__ = [
    "Onlooker",
    "Tail",
    "await_run",
    "find_run",
    "is_worked_on",
    "life_of",
    "look_on",
    "newest_run",
]


class Onlooker(Protocol):
    """What shows a run that another process may be training."""

    view: RunView

    def take(self, events: Sequence[Event]) -> None:
        """Take in what has happened since the last call."""

    def refresh(self, life: str) -> None:
        """Draw, if there is something new and it is time."""


class Tail:
    """The events of a log since the last look; a line being written is left for later.

    Args:
        path: The log; it may not be there yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offset = 0

    def read(self) -> list[Event]:
        """Events that were written since the last call.

        Raises:
            EnvironmentProblem: A line is damaged.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _torn = data.rpartition(b"\n")
        try:
            events = [loads(line) for line in whole.splitlines()]
        except ValueError:
            return read_events(self.path)  # says which line it is
        self._offset += len(whole) + len(newline)
        return [event for event in events if "kind" in event]


def life_of(path: Path, view: RunView, held: bool | None = None) -> str:
    """``"ended"``, ``"running"``, ``"starting"`` or ``"killed"``.

    A run without an end that no process holds was killed. Where the file system knows
    no locks and no process is on record, a run counts as running.

    Args:
        path: The run directory.
        view: What its events say.
        held: Whether a process held it just before they were read.
    """
    held = is_worked_on(path) if held is None else held
    if held:
        return "starting" if view.end or not view.counts else "running"
    if view.end:
        return "ended"
    if not view.counts and process_of(path) is None:
        return "starting"
    return "running" if held is None else "killed"


def is_worked_on(path: Path) -> bool | None:
    """Whether a process trains in ``path``, or starts up to; none: nobody can tell."""
    held, record = is_held(path), process_of(path)
    alive = is_alive(record)
    if held or alive:
        return True
    is_dead = record is not None and alive is False
    return False if is_dead else held


def look_on(
    path: Path,
    panel: Onlooker,
    *,
    is_following: bool,
    sleep: Callable[[float], None] = time.sleep,
    poll_s: float = 1.0,
) -> str:
    """Show the run in ``path``, and go on until it ends if wished; gives its life.

    Args:
        panel: Takes the events in and draws.
        is_following: Go on; else look once.
        sleep: Waits between two looks.
        poll_s: Seconds between them.
    """
    tail = Tail(RunDirectory(path).events_path)
    while True:
        held = is_worked_on(path)  # asked first: what it wrote last is then read
        panel.take(tail.read())
        life = life_of(path, panel.view, held)
        panel.refresh(life)
        if not is_following or life in ("ended", "killed"):
            return life
        sleep(poll_s)


def newest_run(root: str | Path) -> Path | None:
    """The run under ``root`` whose log was written last; none where there is none."""
    logs = list(Path(root).glob("*/events.jsonl"))
    return max(logs, key=lambda log: log.stat().st_mtime).parent if logs else None


def find_run(run_dir: str | Path | None, root: str | Path = "runs") -> Path:
    """The run that is meant: the newest under ``root`` where none is named.

    Raises:
        EnvironmentProblem: None is named, and there is none.
    """
    if run_dir is not None:
        return Path(run_dir)
    found = newest_run(root)
    if found is None:
        raise EnvironmentProblem(
            f"there is no run in {Path(root).absolute()}; expected folders with an "
            "events.jsonl in it. Pass the run directory, such as result.run_dir."
        )
    return found


def await_run(
    path: Path,
    wait_s: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = lambda _text: None,
) -> None:
    """Return once the run in ``path`` has events; wait for one that starts up.

    Args:
        wait_s: How long at most; a run whose lock is held is waited for longer.
        tell: Gets a line before the first pause.

    Raises:
        EnvironmentProblem: There is no run in that folder, and none came.
    """
    log, waited_s = RunDirectory(path).events_path, 0.0
    while not log.exists():
        if waited_s >= wait_s and not is_worked_on(path):
            raise _no_run(path)
        if waited_s == 0.0:
            tell(f"Waiting for the run in {path} to start ...")
        sleep(0.5)
        waited_s += 0.5


def _no_run(path: Path) -> EnvironmentProblem:
    found = [
        log.parent for at in (path, path.parent) for log in at.glob("*/events.jsonl")
    ]
    found.sort(key=lambda run: run.stat().st_mtime, reverse=True)
    near = ", ".join(str(run) for run in found[:5])
    hint = f" Runs there: {near}." if near else ""
    return EnvironmentProblem(
        f"{path} holds no run: there is no events.jsonl in it; expected a run "
        f"directory such as runs/my-run.{hint} Pass one of these, or result.run_dir."
    )
