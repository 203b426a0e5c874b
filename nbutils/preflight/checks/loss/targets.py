"""Part of R5: which tensors of a batch a loss compares the outputs with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.free_outputs import FreeOutputs, Values, replaced
from nbutils.preflight.probe import attempt

__all__ = ["Pair", "Use", "class_pairs", "column_pairs", "float_pairs", "uses"]

Use = Literal["rows", "values", "none", "unknown"]
"""How a loss uses a tensor: which row belongs to which output counts, only its values
as a whole, not at all; unknown where it could not be tried."""
ROUNDING = 2e-6
MAX_TENSORS = 12
MAX_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """An output that may be meant to predict a tensor of the batch.

    Args:
        number: Of the output among the free ones.
        path: Of the tensor within the batch.
        target: The tensor, in the form of the output if both hold floats.
        axis: Of the classes within the output; none where both hold floats.
        differs: Whether output and target have different shapes.
        column: Place in the last axis of the output, where one column is meant.
    """

    number: int
    path: str
    target: Tensor
    axis: int | None = None
    differs: bool = False
    column: int | None = None


def uses(free: FreeOutputs, values: Values) -> dict[str, Use]:
    """How the loss uses each tensor of the batch that has a row for each sample."""
    base = free.value(values)
    found: dict[str, Use] = {}
    for path, tensor in list(tensors(free.batch))[:MAX_TENSORS]:
        if tensor.ndim and tensor.shape[0] == free.num_rows and tensor.numel():
            found[path] = _use(free, values, path, tensor, base)
    return found


def _use(
    free: FreeOutputs, values: Values, path: str, tensor: Tensor, base: float
) -> Use:
    is_varied = free.num_rows > 1 and not bool((tensor == tensor[:1]).all())
    if is_varied:
        for shift in (1, free.num_rows // 2 or 1):
            moved = _moved(free, values, path, tensor.roll(shift, 0), base)
            if moved is None or moved:
                return "unknown" if moved is None else "rows"
    other = _altered(tensor)
    if other is None:
        return "unknown"
    moved = _moved(free, values, path, other, base)
    if moved is None:
        return "unknown"
    if moved:
        return "values" if is_varied else "rows"
    return "none" if is_varied or tensor.is_floating_point() else "unknown"


def _moved(
    free: FreeOutputs, values: Values, path: str, tensor: Tensor, base: float
) -> bool | None:
    """Whether another tensor in that place moves the loss; none if it cannot be."""
    batch = replaced(free.batch, path, tensor)
    value, error = attempt(lambda: free.value(values, batch))
    if error is not None or not math.isfinite(value):
        return None
    return abs(value - base) > ROUNDING * max(abs(base), abs(value), 1e-12)


def _altered(tensor: Tensor) -> Tensor | None:
    """Other values of the same kind: floats moved, integers mirrored in their range."""
    if tensor.is_floating_point() or tensor.is_complex():
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(tensor.shape, generator=generator).to(tensor.device)
        size = tensor.detach().abs().nan_to_num(0.0, 0.0, 0.0).mean()
        return tensor + (noise * (size + 0.1)).to(tensor.dtype)
    if tensor.dtype == torch.bool:
        return ~tensor
    other = tensor.max() + tensor.min() - tensor
    return None if torch.equal(other, tensor) else other


def class_pairs(free: FreeOutputs, batch: Any = None) -> list[Pair]:
    """Outputs with an axis of classes, beside integers that fit them."""
    found: list[Pair] = []
    batch = free.batch if batch is None else batch
    for path, target in tensors(batch):
        if target.is_floating_point() or target.is_complex() or not target.ndim:
            continue
        if target.dtype == torch.bool or not target.numel():
            continue
        if target.ndim > 1 and target.shape[-1] == 1:
            target = target.squeeze(-1)
        for number, output in enumerate(free.start):
            axis = _class_axis(output, target)
            if axis is not None:
                found.append(Pair(number, path, target, axis))
    return found


def _class_axis(output: Tensor, target: Tensor) -> int | None:
    if output.is_complex() or output.ndim != target.ndim + 1:
        return None
    high = int(target.max())
    for axis in dict.fromkeys((1, output.ndim - 1)):
        rest = (*output.shape[:axis], *output.shape[axis + 1 :])
        if rest == tuple(target.shape) and output.shape[axis] > max(high, 1):
            return axis
    return None


def float_pairs(free: FreeOutputs) -> list[Pair]:
    """Outputs beside floats of the same form, or of the same after a squeeze."""
    found: list[Pair] = []
    candidates = [*tensors(free.batch), *free.fixed.items()]
    for path, target in candidates:
        if not (target.is_floating_point() or target.is_complex()) or not target.ndim:
            continue
        if not bool(torch.isfinite(target).all()):
            continue
        for number, output in enumerate(free.start):
            is_like = output.is_complex() == target.is_complex()
            if not is_like or output.numel() != target.numel() or not output.ndim:
                continue
            if _bare(output) == _bare(target):
                shaped = target.reshape(output.shape).to(output.dtype)
                differs = output.shape != target.shape
                found.append(Pair(number, path, shaped, None, differs))
    return found


def column_pairs(free: FreeOutputs) -> list[Pair]:
    """Columns of outputs such as mean and scale ``(B, 2)`` beside floats ``(B,)``."""
    found: list[Pair] = []
    for path, target in tensors(free.batch):
        if not target.is_floating_point() or not target.ndim or len(target) < 2:
            continue
        target = target.squeeze(-1) if target.ndim > 1 else target
        for number, output in enumerate(free.start):
            is_like = output.shape[:-1] == target.shape and not output.is_complex()
            if is_like and 2 <= output.shape[-1] <= MAX_COLUMNS:
                columns = range(output.shape[-1])
                values = target.to(output.dtype)
                found += [Pair(number, path, values, column=c) for c in columns]
    return found


def _bare(tensor: Tensor) -> list[int]:
    """Shape behind the first axis without axes of length 1."""
    return [tensor.shape[0], *(size for size in tensor.shape[1:] if size != 1)]
