"""What several test files of the trackers look for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbutils.monitor.events import Event, read_events
from nbutils.tracking.tracker import numbers

CHILD = Path(__file__).parent / "child.py"
KEY = "fade" * 10


def in_new_process(run_dir: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(CHILD), str(run_dir), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def assert_complete(run_dir: Path, files: list[Any]) -> list[Event]:
    """Every number of every line of the log is in W&B's row of the line's number."""
    by_step: dict[int, dict[str, Any]] = {}
    for file in files:
        rows = [row["_step"] for row in file.rows]
        assert rows == sorted(set(rows))  # W&B drops what goes back
        for row in file.rows:
            by_step.setdefault(row["_step"], {}).update(row)
    events = read_events(run_dir / "events.jsonl")
    for line, event in enumerate(events):
        for name, value in numbers(event).items():
            assert by_step[line][name] == pytest.approx(value, nan_ok=True), event
        if numbers(event) and "step" in event:
            assert by_step[line]["step"] == event["step"]
    return events


def of_kind(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["kind"] == kind]


def assert_nowhere(secret: str, folder: Path) -> None:
    holders = [
        path
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert holders == []
