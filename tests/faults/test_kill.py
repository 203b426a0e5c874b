"""``kill -9`` at any moment: the run resumes and ends as if nothing had happened.

Fifty kills in the suite; ``TEST_KILLS=500`` for a long night.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance.helpers_laws import (
    assert_equal,
    assert_whole,
    events_of,
    read_newest,
    without_times,
)

CHILD = Path(__file__).parent / "child.py"
KILLED = -9
NUM_KILLS = int(os.environ.get("TEST_KILLS", "50"))
KILLS_PER_RUN = 5
NUM_EPOCHS, NUM_STEPS = 6, 36


class Nursery:
    """A process that has imported everything and forks trainings on request."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(CHILD), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._line(60) == "ready"

    def start(self, folder: Path, die_at: int | None = None) -> None:
        request = json.dumps({"folder": str(folder.absolute()), "die_at": die_at})
        self._write(request)
        assert self._line(60) == "started"

    def end_within(self, timeout_s: float) -> int | None:
        """Exit status of the training, if it has ended by then."""
        line = self._line(timeout_s)
        return None if line is None else int(line)

    def kill(self) -> int:
        """End the training now; its status, also if it was faster."""
        self._write("kill")
        status = self.end_within(60)
        assert status is not None
        return status

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def _line(self, timeout_s: float) -> str | None:
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], timeout_s)[0]:
            return None
        return out.readline().decode().strip()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


class Killer:
    """Ends trainings in three ways, at moments drawn from the length of a whole one."""

    def __init__(self, nursery: Nursery, seconds: float, num_changes: int) -> None:
        self._nursery = nursery
        self._seconds = seconds
        self._num_changes = num_changes
        self._draw = random.Random(20)
        self._ways = itertools.cycle(
            [self._by_clock, self._in_a_save, self._at_a_change]
        )

    def __call__(self, folder: Path) -> int:
        """Train until killed, or to the end."""
        return next(self._ways)(folder)

    def _by_clock(self, folder: Path) -> int:
        delay = self._draw.uniform(0, self._seconds)
        self._nursery.start(folder)
        status = self._nursery.end_within(delay)
        return self._nursery.kill() if status is None else status

    def _in_a_save(self, folder: Path) -> int:
        """Once a checkpoint is being written, a little later."""
        saves, place = self._draw.randint(1, 8), folder / "checkpoints"
        seen: set[str] = set()
        self._nursery.start(folder)
        while (status := self._nursery.end_within(0.0005)) is None:
            if place.exists():
                seen.update(n for n in os.listdir(place) if n.endswith(".partial"))
            if len(seen) >= saves:
                time.sleep(self._draw.uniform(0, 0.006))
                return self._nursery.kill()
        return status

    def _at_a_change(self, folder: Path) -> int:
        """Right before a file or folder is opened, made, renamed or removed."""
        self._nursery.start(folder, self._draw.randint(1, self._num_changes))
        status = self._nursery.end_within(60)
        assert status is not None
        return status


def assert_published_is_whole(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("step-*"):
        assert_whole(path)
    best = folder / "checkpoints" / "best"
    if best.exists():
        assert_whole(best)


def assert_log_is_complete(folder: Path) -> None:
    """Every step and epoch is in the log; those done twice are there twice."""
    steps = [event["step"] for event in events_of(folder, "step")]
    assert set(steps) == set(range(1, NUM_STEPS + 1))
    epochs = [event["epoch"] for event in events_of(folder, "epoch")]
    assert set(epochs) == set(range(1, NUM_EPOCHS + 1))
    by_step: dict[int, set[str]] = {}
    for event in events_of(folder, "step"):
        told = json.dumps([event["loss"], event["grad_norm"], event["lr"]])
        by_step.setdefault(event["step"], set()).add(told)
    assert all(len(told) == 1 for told in by_step.values())  # and they agree


def end_of(folder: Path) -> Any:
    """Weights, optimizer, schedule, averages, history, counters and generators."""
    return without_times(read_newest(folder))


def test_fifty_kills_end_as_the_run_that_was_never_killed(
    nursery: Nursery, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    started = time.monotonic()
    nursery.start(whole)
    assert nursery.end_within(120) == 0, whole.with_suffix(".log").read_text()
    seconds = time.monotonic() - started
    expected = end_of(whole)
    assert expected["parts"]["state"]["step"] == NUM_STEPS
    num_changes = int(whole.with_suffix(".count").read_text())
    kill = Killer(nursery, seconds, num_changes)
    num_kills = 0
    for number in itertools.count():
        folder = tmp_path / f"run{number}"
        kills_of_run = 0
        while kills_of_run < KILLS_PER_RUN and num_kills < NUM_KILLS:
            status = kill(folder)
            if status != KILLED:
                break
            kills_of_run += 1
            num_kills += 1
            assert_published_is_whole(folder)
        nursery.start(folder)
        status = nursery.end_within(120)
        log = Path(f"{folder}.log").read_text()
        assert status == 0, f"after {kills_of_run} kills: {log[-2000:]}"
        assert_equal(end_of(folder), expected)
        assert_log_is_complete(folder)
        assert_published_is_whole(folder)
        if num_kills >= NUM_KILLS:
            return


def test_killed_in_fresh_interpreters_ends_the_same(
    nursery: Nursery, tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "part"
    nursery.start(whole)
    assert nursery.end_within(120) == 0
    draw, num_kills = random.Random(3), 0
    command = [sys.executable, "-W", "ignore", str(CHILD), "run", str(folder)]
    events = folder / "events.jsonl"
    for _ in range(3):
        size = events.stat().st_size if events.exists() else 0
        child = subprocess.Popen(command)
        try:
            # from its first event on: before that it has done nothing
            while child.poll() is None:
                if events.exists() and events.stat().st_size > size:
                    time.sleep(draw.uniform(0, 0.15))
                    break
                time.sleep(0.002)
        finally:
            child.kill()
            num_kills += child.wait() == KILLED
        assert_published_is_whole(folder)
    assert num_kills >= 2
    subprocess.run(command, check=True)
    assert_equal(end_of(folder), end_of(whole))
    assert_log_is_complete(folder)
