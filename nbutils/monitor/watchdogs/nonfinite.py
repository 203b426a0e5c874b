"""W2: NaN or infinity where no guard stands: metrics, weights, buffers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from nbutils.monitor.watchdogs.alarm import Alarm

__all__ = ["NonFiniteWatchdog"]


class NonFiniteWatchdog:
    """Looks at each evaluation and at the weights after each pass."""

    def __init__(self) -> None:
        self._was_finite: set[str] = set()

    def observe_metrics(self, metrics: Mapping[str, object]) -> Iterator[Alarm]:
        """Judge an evaluation: a loss at once, a metric that was a number before."""
        for name, value in metrics.items():
            if not isinstance(value, float):
                continue
            if math.isfinite(value):
                self._was_finite.add(name)
            elif name == "loss":
                yield Alarm(
                    "W2",
                    "val_loss",
                    f"the validation loss is {value:g}. Look for such values in the "
                    "validation data, or for outputs that overflow in eval mode; best "
                    "and patience cannot be decided by it.",
                    is_serious=True,
                )
            elif name in self._was_finite:
                yield Alarm(
                    "W2",
                    f"metric {name}",
                    f"the metric val_{name} is {value:g}; it was a number before. Look "
                    "at what it divides by.",
                )

    def observe_weights(self, names: Sequence[str]) -> Iterator[Alarm]:
        """Judge the names of parameters and buffers that hold non-finite values."""
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield Alarm(
                "W2",
                "weights",
                f"{', '.join(names[:3])}{more} of the model hold NaN or infinity, "
                "though no refused update reached them: an update of a finite gradient "
                "overflowed. Resume from an earlier checkpoint with a lower lr.",
                is_serious=True,
            )
