"""Takes snapshots and sees them published, in the loop or in the writer's thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from nbutils.checkpoint.hostcopy import HostBuffers
from nbutils.checkpoint.plain import to_plain
from nbutils.checkpoint.snapshot import Snapshot, collect
from nbutils.checkpoint.store import CheckpointStore
from nbutils.checkpoint.writer import BackgroundWriter
from nbutils.errors import CheckpointError

__all__ = ["Publisher", "Saved", "SecondTier"]

# Smaller states are allocated at the first save: it costs less than a thread.
WARM_BYTES = 64 << 20
# How long the end of a run waits for the writer, and when it says so.
FINISH_S, PATIENT_S = 900.0, 2.0


class SecondTier(Protocol):
    """Where published checkpoints are copied to; ``news`` is to be told."""

    news: deque[Any]

    def offer(self, path: Path, *, is_best: bool) -> None:
        """Take ``path`` into its care, at once; called from any thread."""

    def held(self) -> set[str]:
        """Names of checkpoints that it still has to read."""
        ...


@dataclass(frozen=True)
class Saved:
    """A snapshot that is published: what ``on_checkpoint`` is told, and its cost."""

    facts: dict[str, Any]
    stall_s: float
    write_s: float


class Publisher:
    """Snapshots of one run on their way to the disk.

    Args:
        store: Where they go.
        model: The model, and
        parts: everything else with a ``state_dict``.
        writer: Writes in the background; none: the loop writes.
        second_tier: Gets each published checkpoint.

    Attributes:
        news: From whichever thread has them: a :class:`Saved`, a
            :class:`CheckpointError`, or a sentence to be told.
    """

    def __init__(
        self,
        store: CheckpointStore,
        model: nn.Module,
        parts: Mapping[str, Any],
        writer: BackgroundWriter | None = None,
        second_tier: SecondTier | None = None,
    ) -> None:
        self.news: deque[Any] = deque()
        self.tell = store.report
        self._store = store
        self._model = model
        self._parts = parts
        self._writer = writer
        self._second_tier = second_tier
        if second_tier is not None:
            self.news = second_tier.news
            store.held = second_tier.held
        if writer is not None:
            store.report = self.news.append  # told in the loop's thread

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return self._writer is not None and self._writer.is_busy

    def prepare(self) -> int:
        """Size of the state in bytes; memory for its copy is allocated beside the loop.

        To be called after the first step, when the optimizer has its state.
        """
        writer = self._writer
        buffers = HostBuffers() if writer is None else writer.take_buffers()
        for holder in (self._model, *self._parts.values()):
            to_plain(holder.state_dict(), buffers.plan)
        num_bytes = buffers.num_bytes
        if writer is not None and num_bytes >= WARM_BYTES:
            writer.submit(buffers.allocate_planned, buffers)
        elif writer is not None:
            writer.give_back(buffers)
        return num_bytes

    def save(self, facts: dict[str, Any], started: float) -> None:
        """Take a snapshot now; publish it now as well, or leave that to the writer.

        Args:
            facts: ``step``, ``epoch`` and ``best``.
            started: When this save began, by ``time.perf_counter``.

        Raises:
            CheckpointError: It could not be written, and there is no writer.
        """
        if self._writer is None:
            self._publish(
                collect(facts["step"], self._model, self._parts), facts, started
            )
            return
        buffers = self._writer.take_buffers()
        try:
            snapshot = collect(facts["step"], self._model, self._parts, buffers)
        except BaseException:
            self._writer.give_back(buffers)
            raise
        if buffers.note:
            self.news.append(buffers.note)
        stall_s = time.perf_counter() - started
        self._writer.submit(
            lambda: self._write(snapshot, facts, started, stall_s), buffers
        )

    def close(self) -> None:
        """Wait until the writer has finished what it had accepted.

        Raises:
            CheckpointError: That took too long; the write was abandoned.
        """
        if self._writer is None or self._writer.wait(PATIENT_S):
            return
        self.tell("waiting for the last checkpoint; a second interrupt abandons it")
        if not self._writer.wait(FINISH_S):
            self.abandon()
            raise CheckpointError(
                f"{self._store.folder} did not take the last checkpoint in "
                f"{FINISH_S:g} s; it was abandoned, earlier ones are untouched. Check "
                "the disk, or set runs_dir to another one."
            )

    def abandon(self) -> None:
        """End the write that is under way, at its next block."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer.wait(PATIENT_S)

    def _write(
        self, snapshot: Snapshot, facts: dict[str, Any], started: float, stall_s: float
    ) -> None:
        """The writer's job: publish, or leave the reason why not."""
        try:
            self._publish(snapshot, facts, started, stall_s)
        except CheckpointError as error:
            self.news.append(error)
        except Exception as error:
            failure = CheckpointError(
                f"step {snapshot.step} could not be saved in {self._store.folder}: "
                f"{type(error).__name__}: {error}. Earlier checkpoints are untouched. "
                "This is a fault of nbutils; please report it."
            )
            failure.__cause__ = error
            self.news.append(failure)

    def _publish(
        self,
        snapshot: Snapshot,
        facts: dict[str, Any],
        started: float,
        stall_s: float | None = None,
    ) -> None:
        """Write and announce; ``stall_s``: how long the loop stood, if that is over."""
        check = None if self._writer is None else self._writer.check
        path = self._store.publish(snapshot, is_best=facts["best"], check=check)
        seconds = time.perf_counter() - started
        stall_s = seconds if stall_s is None else stall_s
        facts = {
            "path": str(path),
            "seconds": round(seconds, 4),
            "stall_seconds": round(stall_s, 4),
            "bytes": snapshot.num_bytes(),
            **facts,
        }
        if self._second_tier is not None:
            self._second_tier.offer(path, is_best=facts["best"])
        self.news.append(Saved(facts, stall_s, seconds - stall_s))
