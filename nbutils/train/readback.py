"""Brings step outcomes to the host without making the loop wait for a device."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbutils.train.state import Reading
from nbutils.train.step import StepOutcome

__all__ = ["Readback"]

MAX_PENDING = 64
BLOCK = 16


@dataclass(slots=True, eq=False)
class _Slot:
    """Pinned memory for one outcome's numbers, and the event behind their copy."""

    row: Tensor
    event: Any


class Readback:
    """A queue of outcomes: read at once on a CPU, when they arrive elsewhere.

    On CUDA each outcome is copied to pinned memory behind an event, and read once
    the event has passed; at most 64 windows wait. Pinned memory is used again once
    it was read. On other devices, 64 windows are read with one wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pending: deque[tuple[int, Any, StepOutcome, Any]] = deque()
        self._free: dict[int, list[_Slot]] = {}  # by their width

    def push(self, step: int, outcome: StepOutcome, window: Any) -> None:
        """Take the outcome of window ``step``; ``window`` is kept until it is read."""
        numbers: Any = None
        if self._device.type != "cpu":
            numbers = _row_of(outcome)
            if self._device.type == "cuda":
                numbers = self._send(numbers)
        self._pending.append((step, numbers, outcome, window))

    def ready(self, *, wait: bool = False) -> list[tuple[Reading, Any]]:
        """Readings that have arrived, in order; all of them with ``wait``."""
        found = []
        while self._pending:
            step, numbers, outcome, window = self._pending[0]
            is_full = len(self._pending) > MAX_PENDING
            if isinstance(numbers, _Slot):
                if not numbers.event.query():
                    if not (wait or is_full):
                        break
                    numbers.event.synchronize()
            elif numbers is not None:
                wait = wait or is_full  # one wait serves all that are pending
                if not wait:
                    break
            self._pending.popleft()
            found.append((self._read(step, numbers, outcome), window))
        return found

    def _send(self, row: Tensor) -> _Slot:
        """Queue a copy to the host, and an event behind it, on the row's device."""
        slot = self._slot(len(row))
        slot.row.copy_(row, non_blocking=True)
        slot.event.record(torch.cuda.current_stream(row.device))
        return slot

    def _slot(self, width: int) -> _Slot:
        """One that nothing is on its way to: a slot returns when it was read."""
        free = self._free.setdefault(width, [])
        if not free:
            free += _pinned_slots(width)
        return free.pop()

    def _read(self, step: int, numbers: Any, outcome: StepOutcome) -> Reading:
        if numbers is None:
            return _read_here(step, outcome)
        if isinstance(numbers, _Slot):
            self._free[len(numbers.row)].append(numbers)
            numbers = numbers.row
        loss, norm, refused, *rest = numbers.tolist()
        scale = None if outcome.scale is None else rest.pop()
        terms = dict(zip(outcome.terms, rest, strict=True))
        return Reading(
            step, loss, norm, bool(refused), terms, outcome.num_targets, scale
        )


def _pinned_slots(width: int) -> list[_Slot]:
    """Several at once: to pin memory takes long, and the device may wait for it."""
    block = torch.empty((BLOCK, width), dtype=torch.float32, pin_memory=True)
    return [_Slot(row, torch.cuda.Event()) for row in block]


def _read_here(step: int, outcome: StepOutcome) -> Reading:
    loss, norm = outcome.loss.item(), outcome.grad_norm.item()
    refused = bool(outcome.refused.item())
    terms = {
        name: loss if term is outcome.loss else term.item()
        for name, term in outcome.terms.items()
    }
    scale = None if outcome.scale is None else outcome.scale.item()
    return Reading(step, loss, norm, refused, terms, outcome.num_targets, scale)


def _values(outcome: StepOutcome) -> list[Tensor]:
    last = [] if outcome.scale is None else [outcome.scale]
    terms = outcome.terms.values()
    return [outcome.loss, outcome.grad_norm, outcome.refused, *terms, *last]


def _row_of(outcome: StepOutcome) -> Tensor:
    """All numbers in one tensor, on the gradients' device."""
    home, fp32 = outcome.grad_norm.device, torch.float32
    numbers = [v.to(home, fp32, non_blocking=True) for v in _values(outcome)]
    return torch.stack(numbers)
