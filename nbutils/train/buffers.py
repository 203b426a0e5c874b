"""Buffers that a forward pass changes, such as BatchNorm's running statistics.

A refused window has already been through them: without a way back, one NaN in a
batch stays in the statistics, and every evaluation after it is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["LiveBuffers"]

LARGE_BYTES = 16 * 2**20


@dataclass(slots=True, eq=False)
class _Place:
    """A buffer's name in its module, and how it was before a window."""

    owner: Any
    name: str
    is_statistic: bool
    tensor: Tensor | None = None
    kept: Tensor | None = None
    version: int = -1

    def num_bytes(self) -> int:
        tensor = self.owner.get(self.name)
        return 0 if tensor is None else tensor.numel() * tensor.element_size()

    def keep(self) -> None:
        tensor = self.tensor = self.owner.get(self.name)
        self.kept = None if tensor is None else tensor.detach().clone()
        self.version = _version(tensor)

    def look(self) -> None:
        """Keep without a copy: this one is too large to be copied for nothing."""
        self.tensor, self.kept = self.owner.get(self.name), None
        self.version = _version(self.tensor)

    def has_moved(self) -> bool:
        """Whether it was written to or replaced since it was kept."""
        tensor = self.owner.get(self.name)
        return tensor is not self.tensor or _version(tensor) != self.version

    def put_back(self) -> None:
        self.owner[self.name] = self.tensor
        if self.tensor is not None and self.kept is not None:
            self.tensor.copy_(self.kept)
            self.version = self.tensor._version

    def put_back_if(self, refused: Tensor) -> None:
        """The same, decided on the device; a buffer of another shape costs a wait."""
        now, kept = self.owner.get(self.name), self.kept
        if now is None and self.tensor is None:
            return
        if now is None or kept is None or now.shape != kept.shape:
            if refused.item():
                self.put_back()
            return
        now.copy_(torch.where(refused > 0, kept, now))


@dataclass(frozen=True, slots=True)
class _Scripted:
    """The buffers of a scripted module, whose own table is no dict."""

    module: nn.Module

    def get(self, name: str) -> Tensor | None:
        return getattr(self.module, name)

    def __getitem__(self, name: str) -> Tensor | None:
        return getattr(self.module, name)

    def __setitem__(self, name: str, value: Tensor | None) -> None:
        setattr(self.module, name, value)


def _table(module: nn.Module) -> Any:
    is_scripted = isinstance(module, torch.jit.ScriptModule)
    return _Scripted(module) if is_scripted else module._buffers


def _is_norm(module: nn.Module) -> bool:
    original = str(getattr(module, "original_name", ""))
    return isinstance(module, _NormBase) or original.startswith("BatchNorm")


class _Pack:
    """Buffers of one dtype and device, kept side by side: few kernels serve them all.

    A model with fifty BatchNorm layers has 150 of them.
    """

    def __init__(self, places: list[_Place]) -> None:
        self._places = places
        found = [place.owner[place.name] for place in places]
        self._tensors = [tensor for tensor in found if tensor is not None]
        self._sizes = [tensor.numel() for tensor in self._tensors]
        self._flat = self._tensors[0].new_empty(sum(self._sizes))
        self._kept = self._apart(self._flat)
        for place, tensor, kept in zip(places, found, self._kept, strict=True):
            place.tensor, place.kept = tensor, kept

    def _apart(self, flat: Tensor) -> list[Tensor]:
        pieces = zip(flat.split(self._sizes), self._tensors, strict=True)
        return [piece.view(tensor.shape) for piece, tensor in pieces]

    def fits(self) -> bool:
        """Whether these are still the modules' buffers, in their shapes."""
        return all(
            place.owner.get(place.name) is place.tensor and now.shape == kept.shape
            for place, now, kept in zip(
                self._places, self._tensors, self._kept, strict=True
            )
        )

    def keep(self) -> None:
        torch._foreach_copy_(self._kept, self._tensors)

    def put_back_if(self, refused: Tensor) -> None:
        """Decided on the device, as one."""
        if not self.fits():
            for place in self._places:
                place.put_back_if(refused)
            return
        now = torch.cat([tensor.reshape(-1) for tensor in self._tensors])
        chosen = torch.where(refused > 0, self._flat, now)
        torch._foreach_copy_(self._tensors, self._apart(chosen))


class LiveBuffers:
    """Keeps copies of the buffers that windows change, and puts them back.

    Statistics of normalisation layers always count. Any other buffer is watched, and
    counts from the first window on that writes to it or replaces it. Of one above
    16 MiB there is no copy before that, so the first change is not taken back.

    Args:
        modules: The model, and the loss if it is a module.
        large_bytes: What counts as large.
    """

    def __init__(self, *modules: nn.Module, large_bytes: float = LARGE_BYTES) -> None:
        owners = {id(m): m for top in modules for m in top.modules()}
        places = [
            _Place(_table(module), name, _is_norm(module))
            for module in owners.values()
            for name in list(module._buffers.keys())
        ]
        self._live = [place for place in places if place.is_statistic]
        self._quiet = [place for place in places if not place.is_statistic]
        self._large_bytes = large_bytes
        self._is_learnt = False
        self._packs: list[_Pack] = []
        self._singles = self._live
        self._is_packed = False

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers as they are before a window."""
        if not (self._is_packed and all(pack.fits() for pack in self._packs)):
            self._pack()
        for pack in self._packs:
            pack.keep()
        for place in self._singles:
            place.keep()
        for place in self._quiet:
            if place.has_moved():
                place.look() if place.num_bytes() > self._large_bytes else place.keep()

    def _pack(self) -> None:
        """Sort the live buffers by kind; what is no plain tensor stays by itself."""
        kinds: dict[Any, list[_Place]] = {}
        self._singles = []
        for place in self._live:
            tensor = place.owner.get(place.name)
            if type(tensor) is not Tensor or not _is_plain(tensor):
                self._singles.append(place)
                continue
            kinds.setdefault((tensor.dtype, tensor.device), []).append(place)
        self._packs = [_Pack(places) for places in kinds.values()]
        self._is_packed = True

    def health(self) -> Tensor | None:
        """0, or NaN where the window made a statistic non-finite, ``()``; no sync.

        It may do so with a finite loss and gradient, if the layer's output is masked.
        Of other buffers only NaN counts: a running minimum may begin at infinity.
        """
        if not self._live:
            return None
        told = []
        statistics, others = self._live_floats()
        with torch.no_grad():
            if statistics:
                flat = torch.cat([tensor.reshape(-1) for tensor in statistics])
                told.append(flat.abs().amax() * 0)
            for tensor in others:
                told.append(torch.where(tensor.isnan().any(), math.nan, 0.0))
        return sum(told[1:], told[0]) if told else None

    def _live_floats(self) -> tuple[list[Tensor], list[Tensor]]:
        found: tuple[list[Tensor], list[Tensor]] = [], []
        for place in self._live:
            tensor = place.owner.get(place.name)
            if tensor is not None and tensor.is_floating_point() and tensor.numel():
                found[not place.is_statistic].append(tensor)
        return found

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copies back."""
        for place in self._live:
            place.put_back()
        for place in self._quiet:
            if self._has_changed(place):
                place.put_back()

    def settle(self, refused: Tensor) -> None:
        """After a window: put the copies back if ``refused`` is 1, without a sync."""
        if self._quiet:
            self._notice_changes()
        if not self._live:
            return
        if refused.device.type == "cpu":
            if refused.item():
                self.restore()
            return
        with torch.no_grad():
            for pack in self._packs:
                pack.put_back_if(refused)
            for place in self._singles:
                place.put_back_if(refused)

    def _notice_changes(self) -> None:
        """What a window changed counts from now on; once also compared by value."""
        moved = [place for place in self._quiet if self._has_changed(place)]
        self._is_learnt = True
        if moved:
            self._live = [*self._live, *moved]
            self._singles = [*self._singles, *moved]
            self._is_packed = False  # from the next window on
            self._quiet = [place for place in self._quiet if place not in moved]

    def _has_changed(self, place: _Place) -> bool:
        """By version; in the first window by value too: some kernels leave no trace."""
        if place.has_moved():
            return True
        now, kept = place.owner.get(place.name), place.kept
        if self._is_learnt or now is None or kept is None:
            return False
        return now.layout == torch.strided and not torch.equal(now, kept)


def _is_plain(tensor: Tensor) -> bool:
    is_own = not (tensor.is_inference() or tensor.requires_grad)
    return is_own and tensor.layout == torch.strided and not tensor.is_quantized


def _version(tensor: Tensor | None) -> int:
    """Number of writes, as torch counts them; tensors that cannot change have none."""
    return -1 if tensor is None or tensor.is_inference() else tensor._version
