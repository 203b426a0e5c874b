"""W5: the loss scale or the gradients have collapsed, or the gradients explode."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from nbutils.monitor.watchdogs.alarm import Alarm, Stretch
from nbutils.monitor.watchdogs.statistics import median, noise

__all__ = ["GradientWatchdog"]

COLLAPSED = 1e-6
EXPLODED = 1e3
MIN_NORMS = 20
KEPT = 200


class GradientWatchdog:
    """Medians over stretches of steps against those before.

    A gradient that vanishes because the loss has reached its floor is no fault, nor is
    one that grows while the loss falls: the loss decides.
    """

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=KEPT)
        self._losses: deque[float] = deque(maxlen=KEPT)
        self._first = self._first_loss = self._spread = 0.0
        self._best_loss = math.inf

    def observe(self, stretch: Stretch) -> Iterator[Alarm]:
        """Judge some more steps."""
        if stretch.scale is not None and stretch.scale < 1:
            yield Alarm(
                "W5",
                "scale",
                f"the loss scale has fallen to {stretch.scale:g}: gradients overflow "
                "however small it is. Use precision='bf16' or 'fp32', or a lower lr.",
                is_serious=True,
            )
        if len(stretch.grad_norms) < MIN_NORMS:
            return
        norm, loss = median(stretch.grad_norms), median(stretch.losses)
        if not self._norms:
            self._first, self._first_loss = norm, loss
            self._spread = max(noise(stretch.losses), 1e-3 * abs(loss))
        else:
            yield from self._collapse(norm, loss)
            yield from self._explosion(norm, loss)
        self._norms.append(norm)
        self._losses.append(loss)
        self._best_loss = min(self._best_loss, loss)

    def _collapse(self, norm: float, loss: float) -> Iterator[Alarm]:
        first = self._first
        if norm > COLLAPSED * first or not loss:
            return
        has_learnt = loss < self._first_loss - self._spread
        is_worse = loss > self._best_loss + 3 * self._spread
        if is_worse or not has_learnt:
            yield Alarm(
                "W5",
                "collapse",
                f"the gradient norm has fallen from {first:.3g} to {norm:.3g} while "
                f"the loss is {loss:.4g}, which is not where learning took it. Look "
                "for dead units or saturated outputs; lower the lr.",
                is_serious=True,
            )

    def _explosion(self, norm: float, loss: float) -> Iterator[Alarm]:
        usual, usual_loss = median(self._norms), median(self._losses)
        grew = math.isfinite(norm) and usual > 0 and norm > EXPLODED * usual
        if grew and loss > usual_loss + 3 * self._spread:
            yield Alarm(
                "W5",
                "explosion",
                f"the gradient norm is {norm:.3g}, {norm / usual:,.0f} times its usual "
                f"{usual:.3g}, and the loss rose from {usual_loss:.4g} to {loss:.4g}. "
                "Lower the lr, or clip_norm.",
                is_serious=True,
            )
