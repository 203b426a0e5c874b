"""Means weighted by counts, and how fast the run goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["MeanMeter", "Throughput"]


class MeanMeter:
    """Weighted mean. :meth:`update` never waits for the device; :meth:`read` does.

    Args:
        device: Where the values arrive.

    Example:
        >>> meter = MeanMeter(torch.device("cpu"))
        >>> meter.update(torch.tensor(1.0), weight=3)
        >>> meter.update(torch.tensor(5.0), weight=1)
        >>> meter.read()
        2.0
    """

    def __init__(self, device: torch.device) -> None:
        # Float64 holds the sum of a long epoch; MPS knows no such type.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._total = torch.zeros((), device=device, dtype=dtype)
        self._weight = 0

    @property
    def weight(self) -> int:
        """How much was added, for example samples."""
        return self._weight

    def update(self, mean: Tensor, weight: int) -> None:
        """Add a mean over ``weight`` items, shape ``()``."""
        self._total += mean.detach().to(self._total.dtype) * weight
        self._weight += weight

    def read(self) -> float:
        """The mean so far; NaN when nothing was added. Waits for the device."""
        return self._total.item() / self._weight if self._weight else math.nan

    def reset(self) -> None:
        """Start anew."""
        self._total.zero_()
        self._weight = 0


class Throughput:
    """Samples per second and time left, smoothed over the last half minute.

    Args:
        window_s: Age at which a step's share has fallen to 1/e.
        clock: Seconds that only grow.
    """

    def __init__(
        self, window_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window_s = window_s
        self._clock = clock
        self._last_s: float | None = None
        self._samples = self._steps = self._seconds = 0.0

    def start(self) -> None:
        """Begin an interval here: call it before a step that follows a pause."""
        self._last_s = self._clock()

    def pause(self) -> None:
        """Leave what follows (validation, saving) out of the rate."""
        self._last_s = None

    def tick(self, num_samples: int) -> None:
        """A step over ``num_samples`` has ended."""
        now_s = self._clock()
        if self._last_s is not None:
            elapsed_s = now_s - self._last_s
            keep = math.exp(-elapsed_s / self._window_s)
            self._samples = self._samples * keep + num_samples
            self._steps = self._steps * keep + 1
            self._seconds = self._seconds * keep + elapsed_s
        self._last_s = now_s

    @property
    def samples_per_s(self) -> float:
        """Recent rate; 0 before the first whole step."""
        return self._samples / self._seconds if self._seconds > 0 else 0.0

    @property
    def seconds_per_step(self) -> float:
        """Recent duration of a step; NaN before the first whole one."""
        return self._seconds / self._steps if self._steps > 0 else math.nan

    def eta_s(self, remaining_steps: int) -> float:
        """Seconds that so many steps will take; NaN before the first whole one."""
        return self.seconds_per_step * max(remaining_steps, 0)
