"""Part of R5: a loss that looks at some rows of the batch only, wherever they lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.free_outputs import FreeOutputs, Values, replaced
from nbutils.preflight.probe import attempt

__all__ = ["judge_positions"]

MIN_ROWS = 4


def judge_positions(free: FreeOutputs, values: Values, claims: Claims) -> None:
    """The rows that count must follow the samples when both are moved on."""
    size = free.num_rows
    is_fit = all(v.ndim and v.shape[0] == size for v in values) and not free.fixed
    if size < MIN_ROWS or not is_fit:
        return
    counted = _counted(free, values, 0)
    if counted is None or bool(counted.all()) or not bool(counted.any()):
        return
    for shift in (1, size // 2):
        moved = _counted(free, values, shift)
        if moved is None or not torch.equal(moved, counted):
            return
    rows = counted.nonzero().flatten().tolist()
    claims.add(
        "warn",
        f"the loss looks at {len(rows)} of {size} samples in a batch",
        expected="a gradient for the output of each sample",
        actual=f"rows {_ranges(rows)} have one, whichever samples lie there",
        fix="Look for an index or a slice of the first axis in the loss, such as "
        "outputs[0] or targets[:n].",
    )


def _counted(free: FreeOutputs, values: Values, shift: int) -> Tensor | None:
    """Rows with a gradient when batch and outputs are moved on together."""
    batch: Any = free.batch
    for path, tensor in tensors(free.batch):
        if tensor.ndim and tensor.shape[0] == free.num_rows:
            batch = replaced(batch, path, tensor.roll(shift, 0))
    moved = [value.roll(shift, 0) for value in values]
    grads, error = attempt(lambda: free.gradients(moved, batch))
    if error is not None:
        return None
    found = [(g != 0).flatten(1).any(1) for g in grads if g is not None and g.ndim > 1]
    found += [g != 0 for g in grads if g is not None and g.ndim == 1]
    return torch.stack(found).any(0) if found else None


def _ranges(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:6]))
    return shown if len(rows) <= 6 else f"{shown} and {len(rows) - 6} more"
