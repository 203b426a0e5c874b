"""One path over the samples that were read: digests, small values and moments."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Column", "as_array", "digest", "digests_of"]

MAX_KEPT = 4096
"""Elements of a value up to which it is kept whole."""
MAX_CHANNELS = 16


@dataclass
class Column:
    """What the samples hold at one path, in order of reading.

    Args:
        indices: The samples that were read.
        digests: A number per sample; equal values have equal digests.
        shape: Shape of the first value; none for texts and other objects.
        dtype: Its dtype.
        kept: The values themselves, flat; empty where they are large or ragged.
        means: Mean per channel of each value, shape ``(C,)``.
        squares: Mean square per channel of each value, shape ``(C,)``.
        flat: Per sample, whether all its elements (of each channel) are equal.
    """

    indices: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    kept: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)
    flat: list[bool] = field(default_factory=list)

    def add(self, index: int, value: Any) -> None:
        """Take the value of one sample into account."""
        self.indices.append(index)
        self.digests.append(digest(value))
        array = as_array(value)
        if array is None:
            self.flat.append(False)
            return
        self._add_moments(array)
        if self.shape is None and len(self.indices) == 1:
            self.shape, self.dtype = tuple(array.shape), array.dtype
        if array.numel() <= MAX_KEPT and not array.is_complex():
            self.kept.append(array.reshape(-1).cpu().clone())

    def _add_moments(self, array: Tensor) -> None:
        if array.layout != torch.strided or not array.numel():
            self.flat.append(False)
            return
        parts = torch.view_as_real(array) if array.is_complex() else array
        has_channels = array.ndim == 3 and array.shape[0] <= MAX_CHANNELS
        rows = parts.reshape(array.shape[0] if has_channels else 1, -1)
        self.flat.append(rows.shape[1] > 1 and bool((rows == rows[:, :1]).all()))
        if parts.is_floating_point():
            rows = rows.float()
            self.means.append(rows.mean(1))
            self.squares.append(rows.square().mean(1))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def is_float(self) -> bool:
        """Whether it holds real floats."""
        return self.dtype is not None and self.dtype.is_floating_point

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        if self.dtype is None or self.dtype.is_floating_point or self.dtype.is_complex:
            return False
        return self.dtype is not torch.bool

    @property
    def num_elements(self) -> int:
        """Elements of the first value; 0 where it is no array."""
        return int(np.prod(self.shape)) if self.shape is not None else 0

    @cached_property
    def table(self) -> Tensor | None:
        """Values as rows ``(N, F)``; none where they are large, ragged or texts."""
        same = len({value.numel() for value in self.kept}) == 1
        if not same or len(self.kept) != len(self.indices):
            return None
        return torch.stack([value.to(self.kept[0].dtype) for value in self.kept])

    @cached_property
    def by_index(self) -> list[int]:
        """Positions of the rows in the order of the samples' indices."""
        return sorted(range(len(self.indices)), key=self.indices.__getitem__)

    @cached_property
    def labels(self) -> Tensor | None:
        """One whole number per sample, shape ``(N,)``; none if there is none."""
        if self.table is None or self.table.shape[1] != 1:
            return None
        values = self.table[:, 0]
        is_whole = torch.isfinite(values) & (values == values.round())
        return values.long() if bool(is_whole.all()) else None


def digest(value: Any) -> int:
    """A number that is equal for equal values of one dtype and shape."""
    found = as_array(value)
    if found is not None and found.layout == torch.strided:
        array = found.cpu().resolve_conj().resolve_neg().contiguous()
        content = array.reshape(-1).view(torch.uint8).numpy().tobytes()
        return hash((str(array.dtype), tuple(array.shape), content))
    try:
        return hash(value)
    except TypeError:
        return id(value)


def as_array(value: Any) -> Tensor | None:
    """The value as a tensor without a graph; none if it holds no numbers."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (np.ndarray, np.generic)):
        return torch.as_tensor(value) if value.dtype.kind in "biufc" else None
    if isinstance(value, (bool, float)):
        return torch.tensor(value)
    is_small = isinstance(value, int) and -(2**63) <= value < 2**63
    return torch.tensor(value) if is_small else None


def digests_of(column: Tensor) -> list[int]:
    """The digest of each row of a tensor in memory, shape ``(N, ...)``."""
    array = column.detach().cpu().resolve_conj().resolve_neg().contiguous()
    kind, shape = str(array.dtype), tuple(array.shape[1:])
    rows = array.reshape(len(array), -1).view(torch.uint8).numpy()
    return [hash((kind, shape, row.tobytes())) for row in rows]
