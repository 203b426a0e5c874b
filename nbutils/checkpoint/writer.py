"""Writes snapshots in a thread, one after another, while training goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from nbutils.checkpoint.hostcopy import HostBuffers
from nbutils.environment.limits import available_memory_bytes
from nbutils.errors import CheckpointError

__all__ = ["BackgroundWriter"]

# A second copy waits for the first one's write only where memory for it is plentiful.
ROOM = 4


class BackgroundWriter:
    """Runs jobs in a thread that lives only while there are any.

    Each job owns the buffers of its snapshot. There is one set of them, and a second
    while a job waits behind another; so at most one write is under way and one waits.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], None], HostBuffers]] = deque()
        self._idle = [HostBuffers()]
        self._num_sets = 1
        self._num_open = 0
        self._thread: threading.Thread | None = None
        self._num_bytes = 0
        self._is_abandoned = False

    @property
    def is_busy(self) -> bool:
        """Whether something is under way or waits."""
        return self._num_open > 0

    def take_buffers(self) -> HostBuffers:
        """Memory for the next snapshot; waits until there is some."""
        with self._changed:
            while not self._idle:
                if self._num_sets == 1 and self._has_room():
                    self._num_sets += 1
                    return HostBuffers()
                self._changed.wait()
            return self._idle.pop()

    def give_back(self, buffers: HostBuffers) -> None:
        """Keep the buffers for the next snapshot; a second set is freed."""
        with self._changed:
            if self._idle:
                self._num_sets -= 1
            else:
                self._idle.append(buffers)
            self._changed.notify_all()

    def submit(self, job: Callable[[], None], buffers: HostBuffers) -> None:
        """Run ``job`` in the thread, then take its buffers back; it must not raise."""
        with self._changed:
            self._jobs.append((job, buffers))
            self._num_open += 1
            self._num_bytes = buffers.num_bytes
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="nbutils-checkpoint"
                )
                self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until every job is done; false if that takes longer."""
        end = time.monotonic() + timeout_s
        with self._changed:
            thread = self._thread
            while self._thread is not None:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        if thread is not None:
            thread.join()
        return True

    def abandon(self) -> None:
        """Let what is being written end at its next block."""
        self._is_abandoned = True

    def check(self) -> None:
        """For a job to call before each block.

        Raises:
            CheckpointError: The write was abandoned.
        """
        if self._is_abandoned:
            raise CheckpointError("the save was abandoned; earlier ones are untouched.")

    def _has_room(self) -> bool:
        return available_memory_bytes() > ROOM * self._num_bytes

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._thread = None
                    self._changed.notify_all()
                    return
                job, buffers = self._jobs.popleft()
            try:
                job()
            finally:
                self.give_back(buffers)
                with self._changed:
                    self._num_open -= 1
                    self._changed.notify_all()
