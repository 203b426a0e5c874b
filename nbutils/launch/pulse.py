"""A sign of life while a long cell says nothing: how far its run is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nbutils.launch.terminal import Terminal
from nbutils.monitor.display import progress_line
from nbutils.monitor.jsontext import loads
from nbutils.monitor.runview import RunView, format_duration

__all__ = ["Pulse", "open_event_logs"]

EVENTS = "events.jsonl"
POLL_S = 1.0
MAX_QUIET_S = 60.0
GROWTH = 1.3


class Pulse:
    """Writes a line when nothing was written for a while; a thread of its own.

    Args:
        out: Where the cells' output goes, and the lines.
        quiet_s: After how many seconds without a word; the lines get rarer, up to
            one a minute.
        find_logs: The event logs of runs that go on now.
    """

    def __init__(
        self,
        out: Terminal,
        quiet_s: float = 10.0,
        find_logs: Callable[[], Iterator[Path]] | None = None,
    ) -> None:
        self._out = out
        self._first_quiet_s = quiet_s
        self._quiet_s = quiet_s
        self._find_logs = open_event_logs if find_logs is None else find_logs
        self._tail: _Tail | None = None
        self._since_s = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="nbutils-pulse", daemon=True
        )

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def cell_start(self) -> None:
        """A new cell: its time counts from now."""
        self._since_s = time.monotonic()
        self._quiet_s = self._first_quiet_s

    def _watch(self) -> None:
        while not self._over.wait(min(POLL_S, self._first_quiet_s / 4)):
            if self._out.silent_s >= self._quiet_s:
                self._out.line(f"      {self._text()}")
                self._quiet_s = min(self._quiet_s * GROWTH, MAX_QUIET_S)

    def _text(self) -> str:
        """How long the cell runs, and where its run is if it has one."""
        took = format_duration(time.monotonic() - self._since_s)
        path = max(self._find_logs(), key=_changed_s, default=None)
        if path is None:
            return f"{took}  still running"
        if self._tail is None or self._tail.path != path:
            self._tail = _Tail(path)
        return f"{took}  {path.parent.name}: {progress_line(self._tail.read())}"


def open_event_logs() -> Iterator[Path]:
    """Event logs that processes started from here hold open."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            paths = [Path(file.path) for file in child.open_files()]
        except psutil.Error:  # it ended meanwhile, or may not be looked at
            continue
        yield from (path for path in paths if path.name == EVENTS)


class _Tail:
    """An event log, and the view of all that was read of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._view = RunView()
        self._offset = 0

    def read(self) -> RunView:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _torn = file.read().rpartition(b"\n")
        self._offset += len(whole + newline)
        for line in whole.splitlines():
            self._view.apply(loads(line))
        return self._view


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # its folder was removed meanwhile
        return 0.0
