"""Host memory for copies of a run's tensors, allocated once and kept between saves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nbutils.checkpoint.plain import to_host

__all__ = ["HostBuffers"]

Layout = tuple[Any, ...]


class HostBuffers:
    """Memory for one copy of a run's tensors.

    A tensor is copied into a buffer of its layout that an earlier save has left, so
    that the second save neither allocates memory nor touches new pages. Copies from a
    CUDA device go to pinned memory, all of them queued before anyone waits.

    Attributes:
        note: Why pinned memory could not be had; empty when it could.
        num_bytes: Size of the last copy, or of what is planned.
    """

    def __init__(self) -> None:
        self.note = ""
        self.num_bytes = 0
        self._free: dict[Layout, list[Tensor]] = {}
        self._used: list[tuple[Layout, Tensor]] = []
        self._devices: set[torch.device] = set()
        self._planned: list[Layout] = []

    def start(self) -> HostBuffers:
        """Take back what the last save has used; its snapshot is void from now on."""
        self._planned.clear()
        for layout, buffer in self._used:
            self._free.setdefault(layout, []).append(buffer)
        self._used.clear()
        return self

    def copy(self, tensor: Tensor) -> Tensor:
        """A host copy; valid once :meth:`settle` has returned."""
        layout = _layout(tensor)
        if layout is None:
            return to_host(tensor)
        kept = self._free.get(layout)
        buffer = kept.pop() if kept else self._allocate(layout)
        self._used.append((layout, buffer))
        is_queued = tensor.device.type == "cuda"
        buffer.copy_(tensor.detach(), non_blocking=is_queued)
        if is_queued:
            self._devices.add(tensor.device)
        return buffer

    def settle(self) -> None:
        """Wait until the queued copies are there; free what no tensor needed."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
        self._devices.clear()
        self._free.clear()
        self.num_bytes = sum(buffer.nbytes for _, buffer in self._used)

    def plan(self, tensor: Tensor) -> Tensor:
        """Note the memory that a copy will need; gives ``tensor`` itself back."""
        layout = _layout(tensor)
        if layout is not None:
            self._planned.append(layout)
            self.num_bytes += tensor.nbytes
        return tensor.detach()

    def allocate_planned(self) -> None:
        """Allocate and touch what was planned; meant for a thread of its own."""
        planned, self._planned = self._planned, []
        for layout in planned:
            self._free.setdefault(layout, []).append(self._allocate(layout).zero_())

    def _allocate(self, layout: Layout) -> Tensor:
        shape, stride, dtype, is_pinned = layout
        if is_pinned and not self.note:
            try:
                return _empty(shape, stride, dtype, pin_memory=True)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                self.note = f"no pinned memory, so saves take longer: {reason}"
        return _empty(shape, stride, dtype)


def _empty(shape: Any, stride: Any, dtype: torch.dtype, **options: Any) -> Tensor:
    if stride is None:
        return torch.empty(shape, dtype=dtype, **options)
    return torch.empty_strided(shape, stride, dtype=dtype, **options)


def _layout(tensor: Tensor) -> Layout | None:
    """What a buffer must be like; none for kinds that only a clone can copy."""
    is_plain = type(tensor) in (Tensor, nn.Parameter)
    if not is_plain or tensor.layout != torch.strided or tensor.is_quantized:
        return None
    stride = None
    if not tensor.is_contiguous():  # channels-last stays so, expanded becomes dense
        stride = torch.empty_like(tensor.detach(), device="meta").stride()
    return (tensor.shape, stride, tensor.dtype, tensor.device.type == "cuda")
