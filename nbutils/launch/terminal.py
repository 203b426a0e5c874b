"""A terminal that several write to: whole lines, and when something was last said."""

from __future__ import annotations

import threading
import time
from typing import TextIO

__all__ = ["Terminal"]


class Terminal:
    """A stream for lines of one's own between text that comes in pieces.

    Args:
        stream: Where everything goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._is_at_line_start = True
        self._last_write_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since something was written."""
        return time.monotonic() - self._last_write_s

    def write(self, text: str) -> int:
        """Pass text on as it is."""
        with self._lock:
            if text:
                self._is_at_line_start = text.endswith("\n")
                self._last_write_s = time.monotonic()
            return self._stream.write(text)

    def line(self, text: str) -> None:
        """Write a line of its own; text that was cut off there ends before it."""
        with self._lock:
            self.write(text + "\n" if self._is_at_line_start else f"\n{text}\n")
            self.flush()

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()
