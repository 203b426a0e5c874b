"""W3: too many updates are refused, spread so that no budget notices."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from nbutils.monitor.watchdogs.alarm import Alarm, Stretch

__all__ = ["SkipRateWatchdog"]

MIN_STEPS = 100
MIN_REFUSED = 5


class SkipRateWatchdog:
    """The share of refused updates over the last hundred steps or more.

    Args:
        max_fraction: Share of an epoch that the guard allows.
    """

    def __init__(self, max_fraction: float) -> None:
        self._max_fraction = max_fraction
        self._recent: deque[tuple[int, int]] = deque()

    def observe(self, stretch: Stretch) -> Iterator[Alarm]:
        """Judge some more steps."""
        self._recent.append((stretch.num_steps, stretch.num_refused))
        while sum(n for n, _ in self._recent) - self._recent[0][0] >= MIN_STEPS:
            self._recent.popleft()
        steps = sum(n for n, _ in self._recent)
        refused = sum(n for _, n in self._recent)
        if steps < MIN_STEPS or refused < MIN_REFUSED:
            return
        if refused > self._max_fraction * steps:
            yield Alarm(
                "W3",
                "rate",
                f"{refused} of the last {steps} updates were refused, "
                f"{100 * refused / steps:.1f} % of them; "
                f"{100 * self._max_fraction:g} % is what an epoch may have. The "
                "'refused' events name the samples and the module.",
            )
