"""The process that trains a run on its own, as ``process.json`` names it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.rundir import RunDirectory

__all__ = [
    "LOG_NAME",
    "PROCESS_FILE",
    "is_alive",
    "last_lines",
    "note_process",
    "process_of",
]

PROCESS_FILE = "process.json"
LOG_NAME = "process.log"
"""What the process wrote to its standard output and error."""

_CLOCK_SLACK_S = 5.0
"""How far two readings of when a process began may lie apart."""


def note_process(run_dir: Path, pid: int) -> None:
    """Write down that process ``pid`` of this machine works in ``run_dir``."""
    RunDirectory(run_dir).write_json(
        PROCESS_FILE,
        {
            "pid": pid,
            "host": socket.gethostname(),
            "began_s": _began_s(pid) or time.time(),
            "noted_s": time.time(),
        },
    )


def process_of(run_dir: Path) -> dict[str, Any] | None:
    """What ``process.json`` says; none where no process was detached."""
    try:
        return RunDirectory(run_dir).read_json(PROCESS_FILE)
    except EnvironmentProblem:
        return None  # damaged: the lock still tells


def is_alive(record: Mapping[str, Any] | None) -> bool | None:
    """Whether that process still runs; none for one of another machine.

    A process that took over the number of a dead one began at another time.
    """
    if record is None:
        return False
    if record.get("host") != socket.gethostname():
        return None
    began_s = _began_s(int(record["pid"]))
    known_s = float(record.get("began_s", 0.0))
    return began_s is not None and abs(began_s - known_s) <= _CLOCK_SLACK_S


def last_lines(run_dir: Path, count: int = 12) -> str:
    """The end of what the process wrote; empty where it wrote nothing."""
    path = run_dir / LOG_NAME
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 16_384, 0))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(text.rstrip().splitlines()[-count:])


def _began_s(pid: int) -> float | None:
    """When a process began; none if it is gone, or is dead and not yet fetched."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
