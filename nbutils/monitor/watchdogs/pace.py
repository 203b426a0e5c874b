"""W6: steps take much longer than they did, or the machine swaps."""

from __future__ import annotations

from collections.abc import Iterator

from nbutils.monitor.watchdogs.alarm import Alarm, Stretch
from nbutils.monitor.watchdogs.statistics import median

__all__ = ["PaceWatchdog"]

BASE_S = 120.0
RECENT_S = 60.0
SLOWER = 2.0
MAX_SWAP_BYTES = 512 * 2**20


class PaceWatchdog:
    """Median step times: the last minute against the two minutes after the start.

    The first stretch is left out: it holds warm caches, compilers and autotuners.
    """

    def __init__(self) -> None:
        self._num_seen = 0
        self._base: list[tuple[float, float]] = []
        self._recent: list[tuple[float, float]] = []
        self._start_swap: int | None = None

    def observe(self, stretch: Stretch) -> Iterator[Alarm]:
        """Judge some more steps."""
        self._num_seen += 1
        if self._num_seen == 1:
            return
        entry = (stretch.seconds, stretch.seconds_per_step)
        if _seconds(self._base) < BASE_S:
            self._base.append(entry)
            return
        self._recent.append(entry)
        while _seconds(self._recent) - self._recent[0][0] >= RECENT_S:
            self._recent.pop(0)
        usual = median([step for _, step in self._base])
        now = median([step for _, step in self._recent])
        if _seconds(self._recent) >= RECENT_S and now > SLOWER * usual:
            yield Alarm(
                "W6",
                "pace",
                f"a step takes {1000 * now:.3g} ms, {now / usual:.1f} times the "
                f"{1000 * usual:.3g} ms of the first minutes. Look for other "
                "processes, heat, a slower disk, swap, or a batch that was split.",
            )

    def observe_swap(self, used_bytes: int) -> Iterator[Alarm]:
        """Judge the swap space that the machine uses."""
        if self._start_swap is None:
            self._start_swap = used_bytes
        grown = used_bytes - self._start_swap
        if grown > MAX_SWAP_BYTES:
            yield Alarm(
                "W6",
                "swap",
                f"the machine has swapped out {grown / 1e9:.1f} GB since the run "
                "began: memory is short, and steps wait for the disk. Lower "
                "batch_size or num_workers.",
            )


def _seconds(stretches: list[tuple[float, float]]) -> float:
    return sum(seconds for seconds, _ in stretches)
