"""The fast path: tensors in memory, one ``index_select`` per batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nbutils.data.loader import LoadPlan, OrderedLoader
from nbutils.data.sources import Columns

__all__ = ["TensorLoader"]


class TensorLoader(OrderedLoader):
    """Batches cut from equally long tensors; no sample is ever built.

    Worker processes would cost more than they give, so ``num_workers`` has no effect.

    Args:
        plan: How to read; ``collate`` is not called.
        columns: Tuple or dict of tensors with one row per sample.
        rows: The rows to use; None for all.
        container: Type of the batch when columns are a tuple: tuple or list.
    """

    def __init__(
        self,
        plan: LoadPlan,
        columns: Columns,
        rows: Sequence[int] | None = None,
        container: type[tuple[Any, ...]] | type[list[Any]] = tuple,
    ) -> None:
        tensors = list(columns.values()) if isinstance(columns, dict) else list(columns)
        homes = {tensor.device for tensor in tensors}
        self._home = homes.pop() if len(homes) == 1 else torch.device("cpu")
        self._rows = None
        if rows is not None:
            self._rows = torch.tensor(rows, dtype=torch.int64, device=self._home)
        super().__init__(plan, len(tensors[0]) if rows is None else len(rows))
        self._tensors = tensors
        self._names = list(columns) if isinstance(columns, dict) else None
        self._container = container

    def __iter__(self) -> Iterator[Any]:
        index_batches = self.remaining()
        if self._home.type != "cpu":
            index_batches = self._at_home(index_batches)
        return self._batches(index_batches)

    def _at_home(self, index_batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same where the data lies: one copy an epoch, since each one waits."""
        parts = tuple(index_batches)
        if not parts:
            return iter(())
        moved = torch.cat(parts).to(self._home)
        return iter(moved.split([len(part) for part in parts]))

    def _batches(self, index_batches: Iterator[Tensor]) -> Iterator[Any]:
        # A select copies, so a model that works in place cannot change the data.
        for index in index_batches:
            rows = index if self._rows is None else self._rows[index]
            values = [self._select(tensor, rows) for tensor in self._tensors]
            if self._names is not None:
                yield dict(zip(self._names, values, strict=True))
            else:
                yield self._container(values)

    def _select(self, tensor: Tensor, rows: Tensor) -> Tensor:
        if tensor.device != rows.device:  # columns on several devices
            rows = rows.to(tensor.device)
        if tensor.device.type != "cpu":
            return tensor.index_select(0, rows)
        if not self.plan.pin_memory:
            return tensor.index_select(0, rows)
        shape = (len(rows), *tensor.shape[1:])
        pinned = torch.empty(shape, dtype=tensor.dtype, pin_memory=True)
        return torch.index_select(tensor, 0, rows, out=pinned)
