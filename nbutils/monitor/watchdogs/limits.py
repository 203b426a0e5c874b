"""W8: disk, memory or time are about to run out."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.monitor.watchdogs.alarm import Alarm

__all__ = ["LimitWatchdog"]

MIN_DISK_BYTES = 200 * 2**20
MIN_MEMORY_SHARE = 0.03
MIN_MEMORY_BYTES = 2**30
NEAR = 0.9


class LimitWatchdog:
    """Compares what is left with what is needed next.

    Args:
        max_hours: Time limit of the run; none: no limit.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self._max_seconds = None if max_hours is None else 3600 * max_hours

    def observe_disk(self, free_bytes: int, checkpoint_bytes: int) -> Iterator[Alarm]:
        """Judge the free space of the run's disk; two checkpoints must fit."""
        needed = max(2 * checkpoint_bytes, MIN_DISK_BYTES)
        if free_bytes < needed:
            yield Alarm(
                "W8",
                "disk",
                f"{free_bytes / 1e9:.2f} GB are free on the disk of this run; "
                f"{needed / 1e9:.2f} GB are needed to go on saving. Free some space; "
                "nothing is deleted for you.",
            )

    def observe_memory(self, free_bytes: int, total_bytes: int) -> Iterator[Alarm]:
        """Judge the memory that is left to this process."""
        if free_bytes < min(MIN_MEMORY_BYTES, MIN_MEMORY_SHARE * total_bytes):
            yield Alarm(
                "W8",
                "memory",
                f"{free_bytes / 1e9:.2f} GB of {total_bytes / 1e9:.1f} GB of memory "
                "are left; the system ends processes that need more. Lower num_workers "
                "or batch_size, and look for lists that grow.",
            )

    def observe_time(
        self, seconds: float, step: int, planned_steps: int | None
    ) -> Iterator[Alarm]:
        """Judge whether the plan ends before the time does."""
        limit = self._max_seconds
        if limit is None or seconds < NEAR * limit or not step:
            return
        reachable = int(step * limit / seconds)
        if planned_steps is None or reachable < planned_steps:
            of = "" if planned_steps is None else f" of {planned_steps:,}"
            yield Alarm(
                "W8",
                "time",
                f"max_hours ends this run in {(limit - seconds) / 60:.1f} min, at "
                f"about step {reachable:,}{of}. It is saved then, and resumes with a "
                "higher max_hours.",
            )
