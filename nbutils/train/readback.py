"""Brings step outcomes to the host without making the loop wait for a device."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from nbutils.train.state import Reading
from nbutils.train.step import StepOutcome

__all__ = ["Readback"]

MAX_PENDING = 64


class Readback:
    """A queue of outcomes: read at once on a CPU, when they arrive elsewhere.

    On CUDA each outcome is copied to pinned memory behind an event, and read once
    the event has passed; at most 64 windows wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pending: deque[tuple[int, Any, StepOutcome, Any, Any]] = deque()

    def push(self, step: int, outcome: StepOutcome, window: Any) -> None:
        """Take the outcome of window ``step``; ``window`` is kept until it is read."""
        if self._device.type == "cpu":
            self._pending.append((step, None, outcome, window, None))
            return
        values = [outcome.loss, outcome.grad_norm, outcome.refused]
        row = torch.stack([v.float() for v in [*values, *outcome.terms.values()]])
        event = None
        if self._device.type == "cuda":
            host = torch.empty(row.shape, pin_memory=True)
            host.copy_(row, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            row = host
        self._pending.append((step, row, outcome, window, event))

    def ready(self, *, wait: bool = False) -> list[tuple[Reading, Any]]:
        """Readings that have arrived, in order; all of them with ``wait``."""
        found = []
        while self._pending:
            step, row, outcome, window, event = self._pending[0]
            must = wait or row is None or len(self._pending) > MAX_PENDING
            if event is not None and not event.query():
                if not must:
                    break
                event.synchronize()
            elif event is None and not must:
                break
            self._pending.popleft()
            found.append((_read(step, row, outcome), window))
        return found


def _read(step: int, row: Any, outcome: StepOutcome) -> Reading:
    if row is None:
        loss, norm = outcome.loss.item(), outcome.grad_norm.item()
        refused = outcome.refused.item()
        terms = {
            name: loss if term is outcome.loss else term.item()
            for name, term in outcome.terms.items()
        }
    else:
        loss, norm, refused, *rest = row.tolist()
        terms = dict(zip(outcome.terms, rest, strict=True))
    return Reading(step, loss, norm, bool(refused), terms, outcome.num_targets)
