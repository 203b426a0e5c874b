"""What probably went wrong when a tensor breaks its contract."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["hint"]


def hint(dtype: str, dims: Sequence[int | str] | None, tensor: Tensor) -> str:
    """Advice with a leading space, empty when nothing is known.

    Args:
        dtype: Declared dtype, or ``"any"``.
        dims: Declared dims, None when their number does not fit.
        tensor: What was found.
    """
    advice = [_layout(dims, tensor), _dtype(dtype, tensor)]
    if dims is None:
        advice.append("The number of dims differs: see unsqueeze() and squeeze().")
    return "".join(f" {text}" for text in advice if text)


def _layout(dims: Sequence[int | str] | None, tensor: Tensor) -> str:
    if dims is None or len(dims) != 4 or not isinstance(dims[1], int):
        return ""
    channels, shape = dims[1], tensor.shape
    if shape[1] != channels and shape[3] == channels:
        return "Channels look last: use tensor.permute(0, 3, 1, 2)."
    return ""


def _dtype(dtype: str, tensor: Tensor) -> str:
    declared = getattr(torch, dtype, None)
    if not isinstance(declared, torch.dtype) or declared == tensor.dtype:
        return ""
    if tensor.dtype == torch.uint8 and declared.is_floating_point:
        return "Bytes found: convert with tensor.float() / 255."
    if tensor.dtype == torch.float64 and declared.is_floating_point:
        return "Double precision found, as numpy makes it: convert with .float()."
    whole = not declared.is_floating_point and not declared.is_complex
    if whole and tensor.is_floating_point():
        return "Integer labels expected: convert with .long()."
    if tensor.is_complex() and not declared.is_complex:
        return "Complex values found: use torch.view_as_real() or .abs()."
    return f"Convert with .to(torch.{dtype})."
