"""The samples that a model gets right most easily, and those that it gets wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import batch_size
from nbutils.errors import ConfigError
from nbutils.train.state import RunState
from nbutils.train.watchers.sample_losses import SampleLosses, sample_losses
from nbutils.train.watchers.watcher import GAP_S, Parts, Watcher

__all__ = ["ExampleMonitor"]


class ExampleMonitor(Watcher):
    """Writes an ``examples`` event after an evaluation of the validation data.

    After the first one, after the last one, and at most once in two seconds between.

    ``best`` and ``worst`` are lists of ``{"index": ..., "loss": ...}``, the most
    extreme sample first; the index is that of ``val_data``, for a stream the sample's
    place in it. A loss that is not finite is the worst. No sample is in both lists.

    Only losses that give one number a sample exactly are used: those of torch with
    ``reduction="mean"``, and your own with an attribute ``sample_losses(outputs,
    batch)``. For others there is no event. That costs one more loss a batch.

    Args:
        num_examples: Samples in each list, at most.
        clock: Seconds that only grow.

    Raises:
        ConfigError: ``num_examples`` is below 1.
    """

    def __init__(
        self, num_examples: int = 8, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        if num_examples < 1:
            raise ConfigError([f"num_examples is {num_examples}; it must be >= 1."])
        self._num_examples = num_examples
        self._clock = clock
        self._losses_of: SampleLosses | None = None
        self._next_s = -math.inf
        self._kept: tuple[int, Tensor, list[int]] | None = None
        self._reset()

    def _reset(self) -> None:
        self._indices: list[int] = []
        self._losses: list[Tensor] = []
        self._batch: list[int] | None = None
        self._is_open = False
        self._place = 0
        self._num_seen = 0
        self._is_sure = True

    def attach(self, parts: Parts) -> None:
        super().attach(parts)
        amount = parts.config.loss.label_smoothing
        self._losses_of = sample_losses(parts.task, amount)
        self._next_s, self._kept = -math.inf, None
        self._reset()
        if self._losses_of is not None:
            parts.taps.results.watchers.append(self)

    def on_epoch_start(self, state: RunState) -> None:
        self._reset()

    def begin_batch(self, indices: list[int] | None) -> None:
        """A batch of these samples comes; none: of a stream, in its order."""
        self._end_batch()
        self._batch, self._place, self._is_open = indices, 0, True

    def add_result(self, outputs: Any, batch: Any) -> None:
        """Take the losses of a batch, or of a part of it."""
        if self._losses_of is None or not self._is_sure:
            return
        losses = self._losses_of(outputs, batch)
        size = batch_size(batch)
        if losses is None or losses.shape != (size,):
            self._is_sure = False
            return
        start = self._place
        self._place += size
        if self._batch is None:
            self._indices += range(self._num_seen + start, self._num_seen + self._place)
        else:
            self._indices += self._batch[start : self._place]
        self._losses.append(losses.detach().float())

    def on_evaluate_end(self, state: RunState) -> None:
        self._end_batch()
        losses, indices = self._losses, self._indices
        is_sure = self._is_sure and bool(losses)
        self._reset()
        self._kept = None
        if is_sure:
            self._kept = (state.step, torch.cat(losses), indices)
            now_s = self._clock()
            if now_s >= self._next_s:
                self._next_s = now_s + GAP_S
                self._write()

    def on_stop(self, state: RunState) -> None:
        self._write()

    def _end_batch(self) -> None:
        """A batch that was left out, or came in part, leaves places in doubt."""
        if self._is_open:
            is_whole = self._batch is not None and self._place in (0, len(self._batch))
            if not is_whole and not (self._batch is None and self._place):
                self._is_sure = False
        self._is_open = False
        self._num_seen += self._place
        self._place = 0

    def _write(self) -> None:
        if self._kept is None:
            return
        (step, losses, indices), self._kept = self._kept, None
        losses = losses.cpu()
        order = torch.argsort(losses, stable=True).tolist()
        values = losses.tolist()
        order = [i for i in order if not math.isnan(values[i])]  # NaN: no target
        size = min(self._num_examples, len(order) // 2)

        def rows(places: list[int]) -> list[dict[str, Any]]:
            return [
                {"index": indices[i], "loss": float(f"{values[i]:.6g}")} for i in places
            ]

        if size:
            best, worst = rows(order[:size]), rows(order[: -size - 1 : -1])
            self.parts.events.write(
                "examples", step=step, split="val", best=best, worst=worst
            )
