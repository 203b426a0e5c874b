"""One Stop: interrupt, SIGTERM, a STOP file or the clock end a run the same way."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.train.state import RunState

__all__ = ["StopWatch"]

MAX_LATE_S = 0.02
LOOK_SHARE = 0.02
NUM_OBSERVED = 8


class StopWatch:
    """Looks, once a window, whether someone or something wants the run to end.

    Args:
        stop_file: A file of this name stops the run; it is removed once seen.
        max_hours: Time limit over all sessions of the run; none: no limit.
    """

    def __init__(self, stop_file: Path | None, max_hours: float | None) -> None:
        self._stop_file = None if stop_file is None else str(stop_file)
        self._max_seconds = None if max_hours is None else max_hours * 3600
        self._signal_reason: str | None = None
        self._started = time.monotonic()
        self._num_looks, self._look_s = 0, math.inf
        self._due = -math.inf

    @contextmanager
    def listening(self, state: RunState) -> Iterator[None]:
        """Catch the first interrupt or SIGTERM inside the block; a second raises.

        Handlers can be set in the main thread only; elsewhere signals stay as
        they are, and the STOP file still works.
        """
        self._started = time.monotonic() - state.seconds
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}
        try:
            for number, reason in (
                (signal.SIGINT, "interrupt"),
                (signal.SIGTERM, "terminated"),
            ):
                if signal.getsignal(number) is None:
                    continue  # set by compiled code: it could not be given back
                before[number] = signal.signal(number, self._make_handler(reason))
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _make_handler(self, reason: str) -> Callable[[int, Any], None]:
        owner = os.getpid()

        def handle(_number: int, _frame: Any) -> None:
            if os.getpid() != owner:
                return  # a forked loader worker: its parent decides
            if self._signal_reason is not None:
                raise KeyboardInterrupt
            self._signal_reason = reason

        return handle

    def poll(self, state: RunState) -> None:
        """Ask ``state`` to end if there is a reason to; update its clock."""
        now = time.monotonic()
        state.seconds = now - self._started
        if self._signal_reason is not None:
            state.end(self._signal_reason)
        elif now >= self._due and self._sees_file(now):
            state.end("stop file")
        elif self._max_seconds is not None and state.seconds >= self._max_seconds:
            state.end("time")

    def _sees_file(self, now: float) -> bool:
        """Look for the file; where a look is slow, as on a mounted drive, look less.

        Half a microsecond on a disk, but up to milliseconds on a network: looks take
        2 % of the time, or come each 20 ms. Never less often than once a long window.
        """
        if self._stop_file is None:
            self._due = math.inf
            return False
        is_there = os.access(self._stop_file, os.F_OK)
        if is_there:
            Path(self._stop_file).unlink(missing_ok=True)
        if self._num_looks < NUM_OBSERVED:
            self._num_looks += 1  # the least: a look may have waited for the processor
            self._look_s = min(self._look_s, time.monotonic() - now)
        else:
            self._due = now + min(self._look_s / LOOK_SHARE, MAX_LATE_S)
        return is_there
