"""The event log: the one source for the panel, the report and the trackers.

One JSON object a line, ``{"time_s": ..., "kind": ..., ...}``, appended with a single
unbuffered write, so that a killed process loses at most the line it was writing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.jsontext import dumps, loads

__all__ = ["Event", "EventLog", "Subscriber", "follow", "read_events"]

Event = dict[str, Any]
Subscriber = Callable[[Event], None]

# What says whether a run goes on; a ``published`` event may follow its end.
_TURNS = ("run_start", "resume", "run_end")


class EventLog:
    """Append events to a file and pass them on to subscribers.

    A log that already exists is continued; what a crash left of a last line is cut.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.num_failures: dict[str, int] = {}
        self._subscribers: list[tuple[str, Subscriber]] = []
        self._lock = threading.Lock()
        self._file = _open_whole(self.path)

    def write(self, kind: str, **fields: Any) -> Event:
        """Append one event, then tell the subscribers; returns the event."""
        event: Event = {"time_s": time.time(), "kind": kind, **fields}
        line = (dumps(event) + "\n").encode("ascii")
        with self._lock:
            self._append(line)
        for name, subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception as error:  # a view never stops the run (law 10)
                self._count_failure(name, error)
        return event

    def subscribe(self, subscriber: Subscriber, name: str = "") -> None:
        """Call ``subscriber(event)`` after each write.

        Its failures are counted in :attr:`num_failures`; the first one is written
        as a ``message`` event, and the run goes on.
        """
        label = name or getattr(subscriber, "__qualname__", type(subscriber).__name__)
        self._subscribers.append((label, subscriber))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop calling ``subscriber``; unknown ones are ignored."""
        self._subscribers = [
            (name, known) for name, known in self._subscribers if known != subscriber
        ]

    def close(self) -> None:
        """Sync the file to disk and close it; closing twice is harmless."""
        with self._lock:
            if not self._file.closed:
                os.fsync(self._file.fileno())
                self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        if self._file.closed:
            raise EnvironmentProblem(
                f"The event log {self.path} is closed; expected an open one. "
                "Start or resume a run to open it again."
            )
        try:
            num_written = self._file.write(line)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        if num_written != len(line):  # a full disk: leave no half line
            self._file.truncate(self._file.tell() - (num_written or 0))
            raise _cannot_write(self.path, "the disk took only a part of the line")

    def _count_failure(self, name: str, error: Exception) -> None:
        self.num_failures[name] = self.num_failures.get(name, 0) + 1
        if self.num_failures[name] == 1:
            text = (
                f"{name} failed: {type(error).__name__}: {error}. The run goes on "
                "and its events stay complete on disk; further failures are counted."
            )
            self.write("message", level="warning", text=text)


def read_events(path: str | Path) -> list[Event]:
    """All whole events of a log, oldest first; no file gives an empty list.

    A last line without its line end was being written, and is left out.

    Raises:
        EnvironmentProblem: A line before the last one is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    whole, newline, _torn = path.read_bytes().rpartition(b"\n")
    return _parse(whole + newline, path, first_line=1)


def follow(
    path: str | Path,
    *,
    poll_s: float = 0.5,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Yield events as they are written, from the first one on.

    Ends after a ``run_end`` that no new session follows, or when ``should_stop()``.
    """
    path, offset, num_lines, ended = Path(path), 0, 0, False
    while True:
        data = b""
        if path.exists():
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
        whole, newline, _torn = data.rpartition(b"\n")
        events = _parse(whole + newline, path, first_line=num_lines + 1)
        offset, num_lines = offset + len(whole + newline), num_lines + len(events)
        yield from events
        for event in events:
            if event["kind"] in _TURNS:
                ended = event["kind"] == "run_end"
        if (ended and not events) or should_stop():
            return
        if not events or not ended:
            time.sleep(poll_s)


def _parse(data: bytes, path: Path, first_line: int) -> list[Event]:
    events: list[Event] = []
    for number, line in enumerate(data.splitlines(), first_line):
        try:
            event = loads(line)
        except ValueError as error:
            raise _damaged(path, number, line) from error
        if not isinstance(event, dict) or "kind" not in event:
            raise _damaged(path, number, line)
        events.append(event)
    return events


def _damaged(path: Path, number: int, line: bytes) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"Line {number} of {path} is not an event: {line[:60]!r}; expected one JSON "
        "object with 'kind'. Something else wrote to the file: remove that line."
    )


def _open_whole(path: Path) -> Any:
    """The file opened for appending, cut back to its last whole line."""
    try:
        file = path.open("ab+", buffering=0)
    except OSError as error:
        raise _cannot_write(path, error) from error
    file.truncate(_whole_length(file))
    return file


def _whole_length(file: Any, block: int = 65536) -> int:
    """Bytes up to and with the last line end; reads from the back."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _cannot_write(path: Path, reason: object) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"The event log {path} cannot be written: {reason}. A run needs a writable "
        "folder with free space: free some, or choose another runs_dir."
    )
