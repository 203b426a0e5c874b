"""Buffers that a forward pass changes, such as BatchNorm's running statistics.

A refused window has already been through them: without a way back, one NaN in a
batch stays in the statistics, and every evaluation after it is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["LiveBuffers"]


class LiveBuffers:
    """Keeps copies of the buffers that windows change, and puts them back.

    Which ones change is learnt from the first window, normalisation layers always
    count; constant buffers cost nothing after it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (module, name)
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if buffer is not None
        ]
        self._is_learnt = False
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Copy the buffers as they are before a window."""
        if not self._places:
            return
        with torch.no_grad():
            buffers = [getattr(module, name) for module, name in self._places]
            self._kept = [buffer.clone() for buffer in buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copies back."""
        for (module, name), kept in zip(self._places, self._kept, strict=True):
            getattr(module, name).copy_(kept)

    def settle(self, refused: Tensor) -> None:
        """After a window: put the copies back if ``refused`` is 1, without a sync."""
        if not self._is_learnt:
            self._forget_constant_ones()
        if not self._places:
            return
        if refused.device.type == "cpu":
            if refused.item():
                self.restore()
            return
        with torch.no_grad():
            for (module, name), kept in zip(self._places, self._kept, strict=True):
                buffer = getattr(module, name)
                buffer.copy_(torch.where(refused > 0, kept, buffer))

    def _forget_constant_ones(self) -> None:
        self._is_learnt = True
        live = [
            (place, kept)
            for place, kept in zip(self._places, self._kept, strict=True)
            if isinstance(place[0], _NormBase) or not _same(getattr(*place), kept)
        ]
        self._places = [place for place, _ in live]
        self._kept = [kept for _, kept in live]


def _same(buffer: Tensor, kept: Tensor) -> bool:
    """By value: normalisation kernels change statistics without a version bump."""
    return torch.equal(buffer, kept)
