"""Part of R4: a reshape that swaps axes without moving what lies on them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nbutils.preflight.blame import is_own, place_of
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe

__all__ = ["judge_reshapes"]

RESHAPES = {torch.reshape, Tensor.reshape, Tensor.view}


class _Swaps(TorchFunctionMode):
    """Reshapes whose result has the sizes of the input in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RESHAPES and args and isinstance(args[0], Tensor):
            before, after = tuple(args[0].shape), tuple(result.shape)
            if before != after and sorted(before) == sorted(after):
                swapped = [n for n, m in zip(before, after, strict=True) if n != m]
                if min(swapped) > 1:
                    self.found.setdefault(_place(), f"{before} becomes {after}")
        return result


def _place() -> str:
    """The line of the user's own that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        if is_own(frame.f_code.co_filename):
            return place_of(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return ""


def judge_reshapes(probe: Probe, claims: Claims) -> None:
    """``(B, T, C)`` viewed as ``(B, C, T)`` mixes times and channels."""
    batch = probe.fresh(probe.data.batch("train"))
    probe.rewind()
    _ = probe.model
    with _Swaps() as swaps:
        probe.forward(batch, training=True)
    told = [f"{sizes}, at {place}" for place, sizes in swaps.found.items() if place]
    if told:
        claims.add(
            "warn",
            "a reshape swaps axes without moving the values: it mixes them",
            expected="permute or transpose, which move the values with their axis",
            actual="\n".join(told[:3]),
            fix="Use x.transpose(1, 2) or x.permute(...) in place of view or reshape.",
        )
