"""How far two results lie apart, and how far they may."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors

__all__ = ["difference", "largest_difference", "tolerance"]

TOLERANCE = 1e-3  # of the outputs' scale; ONNX kernels round differently


def tolerance(results: Iterable[Tensor]) -> float:
    """The difference that rounding explains; more for bf16 and fp16 than for fp32."""
    steps = [torch.finfo(t.dtype).eps for t in results if t.is_floating_point()]
    return max([TOLERANCE, *(4 * step for step in steps)])


def largest_difference(expected: Any, found: Any) -> float:
    """The worst :func:`difference` of two nested results; infinite if they differ."""
    left = [tensor for _, tensor in tensors(expected)]
    right = found if _is_flat(found) else [tensor for _, tensor in tensors(found)]
    if len(left) != len(right):
        return float("inf")
    gaps = [difference(a.cpu(), b.cpu()) for a, b in zip(left, right, strict=True)]
    # max() would drop a NaN that does not come first
    return next((gap for gap in gaps if gap != gap), max(gaps, default=0.0))


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest gap as a share of the largest expected value; equal NaNs are equal.

    Whole numbers and booleans differ by 0 or by infinity.

    Example:
        >>> difference(torch.tensor([4.0, 2.0]), torch.tensor([4.0, 3.0]))
        0.25
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, found) else float("inf")
    if not expected.numel():
        return 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    left, right = expected.to(wide), found.to(wide)
    same = (left == right) | (left.isnan() & right.isnan())
    gap = torch.where(same, 0.0, (left - right).abs()).max()
    size = left.abs()
    scale = torch.where(size.isfinite(), size, 0.0).max().clamp(min=1e-6)
    return float(gap / scale)


def _is_flat(found: Any) -> bool:
    return isinstance(found, Sequence) and all(isinstance(t, Tensor) for t in found)
