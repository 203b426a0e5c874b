"""A thread that reads figures while the main one works."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nbutils.errors import ConfigError

__all__ = ["Sample", "Sampler"]

JOIN_S = 5.0
MAX_KEPT = 4096  # a day and a half at one in 30 s


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures, when they were read, and the run's step then."""

    time_s: float
    step: int
    values: Mapping[str, float]


class Sampler:
    """Reads at once, then at an interval, and once more when it is stopped.

    The thread only reads and appends; who owns the sampler takes the samples where it
    writes everything else. So no view is called from two threads, and the thread takes
    no lock of theirs: a worker that is forked meanwhile finds them free. It is a
    daemon, and a forked process has no such thread. The first reading that raises is
    the last.

    Args:
        read: Gives figures by name.
        step: Gives the run's step.
        every_s: Seconds between two readings.
        on_sample: Called in the thread after each reading.

    Attributes:
        samples: What was read and not taken yet, oldest first.
        error: Why reading has ended early; none if it has not.

    Raises:
        ConfigError: ``every_s`` is not above 0.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, float]],
        step: Callable[[], int],
        every_s: float,
        on_sample: Callable[[], None] | None = None,
    ) -> None:
        if not every_s > 0:
            raise ConfigError([f"every_s is {every_s}; seconds above 0 are expected."])
        self.samples: deque[Sample] = deque(maxlen=MAX_KEPT)
        self.error: Exception | None = None
        self._read = read
        self._step = step
        self._every_s = every_s
        self._on_sample = on_sample
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; a running one goes on."""
        if self.is_running:
            return
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._loop, name="nbutils sampler", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread, then read once more, here; a second call does nothing.

        A driver that hangs is not waited for longer than five seconds.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        thread.join(JOIN_S)
        if not thread.is_alive() and self.error is None:
            self._take()

    def _loop(self) -> None:
        while self.error is None:
            self._take()
            if self._stop.wait(self._every_s):
                return

    def _take(self) -> None:
        try:
            values = self._read()
        except Exception as error:  # told by the owner: a reading never ends a run
            self.error = error
        else:
            self.samples.append(Sample(time.time(), self._step(), values))
        if self._on_sample is not None:
            self._on_sample()
