"""What every loader can do: know its position, be set to another, iterate from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbutils.data.order import batch_bounds, count_batches, epoch_order
from nbutils.errors import ContractError

__all__ = ["LoadPlan", "Loader", "OrderedLoader", "add_context"]


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How one split is read."""

    split: str
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    num_workers: int = 0
    pin_memory: bool = False
    collate: Callable[..., Any]
    worker_options: tuple[tuple[str, Any], ...] = ()


class Loader(ABC):
    """Host batches of one split, from the current position to the end of the epoch.

    Iterating does not move the position: :meth:`set_position` alone does.

    Attributes:
        split: ``"train"``, ``"val"`` or ``"test"``.
        num_batches: Batches per epoch; None for a stream that does not know.
        num_samples: Samples visited per epoch; None for such a stream.
        epoch: The epoch that iterating reads.
        batch: The first batch that iterating yields.
        is_counted: Whether ``num_batches`` is a fact; of a stream it is a promise.
    """

    is_counted = True

    def __init__(
        self, split: str, num_batches: int | None, num_samples: int | None
    ) -> None:
        self.split = split
        self.num_batches = num_batches
        self.num_samples = num_samples
        self.epoch = 0
        self.batch = 0

    def __len__(self) -> int:
        if self.num_batches is None:
            raise TypeError(
                f"the stream of '{self.split}' does not know its number of batches; "
                "give the dataset a __len__, or read num_batches, which is None."
            )
        return self.num_batches

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Make the next iteration start at ``batch`` of ``epoch``.

        Raises:
            ContractError: The position lies outside the epoch.
        """
        end = self.num_batches if self.is_counted else None
        if epoch < 0 or batch < 0 or (end is not None and batch > end):
            allowed = "" if end is None else f" <= {end}"
            raise ContractError(
                f"position of '{self.split}' is epoch {epoch}, batch {batch}; epoch "
                f">= 0 and 0 <= batch{allowed} is expected. Was the run saved with "
                "other data or another batch_size?"
            )
        self.epoch, self.batch = epoch, batch

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Batches from the position to the end of the epoch."""

    @abstractmethod
    def indices(self, batch_number: int) -> list[int] | None:
        """Sample indices of a batch of the current epoch; None for a stream."""

    def close(self) -> None:  # noqa: B027 (nothing to free is a fine default)
        """Free worker processes; the loader can be used again."""


class OrderedLoader(Loader):
    """A loader whose order is a function of (seed, epoch); any position is O(1)."""

    def __init__(self, plan: LoadPlan, length: int) -> None:
        num_batches = count_batches(length, plan.batch_size, plan.drop_last)
        if num_batches == 0:
            raise ContractError(_why_empty(plan, length))
        used = min(num_batches * plan.batch_size, length)
        super().__init__(plan.split, num_batches, used)
        self.plan = plan
        self._length = length
        self._cached: tuple[int, Tensor] | None = None

    def order(self) -> Tensor:
        """Sample indices of the current epoch in the order of visiting."""
        if self._cached is None or self._cached[0] != self.epoch:
            plan = self.plan
            order = epoch_order(self._length, plan.seed, self.epoch, plan.shuffle)
            self._cached = (self.epoch, order)
        return self._cached[1]

    def indices(self, batch_number: int) -> list[int]:
        """Sample indices of a batch of the current epoch.

        Raises:
            ContractError: There is no such batch.
        """
        if not 0 <= batch_number < len(self):
            raise ContractError(
                f"'{self.split}' has no batch {batch_number}; 0 to {len(self) - 1} "
                "are expected."
            )
        start, end = batch_bounds(batch_number, self.plan.batch_size, self._length)
        return self.order()[start:end].tolist()

    def remaining(self) -> Iterator[Tensor]:
        """Index tensors of the batches from the position on."""
        start = self.batch * self.plan.batch_size
        if start >= (self.num_samples or 0):
            return iter(())
        order = self.order()[start : self.num_samples]
        return iter(torch.split(order, self.plan.batch_size))


def _why_empty(plan: LoadPlan, length: int) -> str:
    if length == 0:
        return (
            f"'{plan.split}' has 0 samples, so an epoch would have no batch; at least "
            "one is expected. Check the path and the split fractions."
        )
    return (
        f"'{plan.split}' has {length} samples, fewer than batch_size="
        f"{plan.batch_size}, and drop_last=True leaves no batch; at least one is "
        f"expected. Use batch_size={length} or less, or drop_last=False."
    )


def add_context(error: BaseException, note: str) -> None:
    """Append a line to an error's report, where Python can (3.11 on)."""
    add_note = getattr(error, "add_note", None)
    if add_note is not None:
        add_note(note)
