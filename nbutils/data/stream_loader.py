"""Data that cannot be re-ordered: a position is reached by reading and skipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from nbutils.data.loader import Loader, add_context
from nbutils.data.order import mix
from nbutils.data.rng import RandomStream
from nbutils.data.workers import explain_death, quiet_start, shut_down
from nbutils.errors import ContractError

__all__ = ["StreamLoader"]


class StreamLoader(Loader):
    """Batches of an ``IterableDataset``, or of a ``DataLoader`` with its own sampler.

    The order is the stream's own. Its randomness runs in a stream of its own, seeded
    from (seed, epoch), so that training's random numbers stay untouched and an epoch
    can be repeated. **Resuming inside an epoch reads and drops the batches before the
    position**; map-style data does not need that.

    Args:
        split: Name of the split.
        source: The loader that is iterated.
        seed: Seed of the run.
    """

    is_counted = False

    def __init__(self, split: str, source: DataLoader[Any], seed: int) -> None:
        num_batches = _length(source)
        super().__init__(split, num_batches, _num_samples(source))
        if num_batches == 0:
            raise ContractError(_nothing(split, "its length is 0"))
        self._source = source
        self._seed = seed

    def __iter__(self) -> Iterator[Any]:
        return self._fetch(self.epoch if self.split == "train" else 0, self.batch)

    def _fetch(self, epoch: int, first: int) -> Iterator[Any]:
        self._set_epoch(epoch)
        number = 0
        with RandomStream(mix(self._seed, epoch)) as randomness, quiet_start():
            iterator = iter(self._source)
        while True:
            with randomness:
                try:
                    with explain_death(iterator, self.split):
                        batch = next(iterator)
                except StopIteration:
                    break
                except Exception as error:
                    shut_down(iterator)
                    add_context(
                        error, f"while reading batch {number} of '{self.split}'"
                    )
                    raise
            number += 1
            if number > first:
                yield batch
        self._refuse_short(number, first)

    def _refuse_short(self, number: int, first: int) -> None:
        if number == 0:
            raise ContractError(_nothing(self.split, "it ended at once"))
        if number < first:
            raise ContractError(
                f"the stream of '{self.split}' ended after {number} batches, and the "
                f"position is batch {first}; the data of the saved run is expected. "
                "Start the epoch anew with set_position(epoch)."
            )

    def _set_epoch(self, epoch: int) -> None:
        """Seed what the stream draws its order from, and tell it the epoch."""
        for part in _parts(self._source):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(mix(self._seed, epoch))
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def indices(self, batch_number: int) -> None:
        """None: a stream has no indices."""
        return


def _parts(source: DataLoader[Any]) -> list[Any]:
    batch_sampler = getattr(source, "batch_sampler", None)
    parts = [
        source,
        source.dataset,
        getattr(source, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    ]
    return list({id(part): part for part in parts if part is not None}.values())


def _length(source: DataLoader[Any]) -> int | None:
    try:
        return len(source)
    except TypeError:
        return None


def _num_samples(source: DataLoader[Any]) -> int | None:
    num_batches = _length(source)
    if num_batches is None or source.batch_size is None:
        return None  # without a batch size, the user's sampler or dataset decides
    is_stream = isinstance(source.dataset, IterableDataset)
    counted: Any = source.dataset if is_stream else source.sampler
    length = len(counted)
    return min(length, num_batches * source.batch_size) if source.drop_last else length


def _nothing(split: str, why: str) -> str:
    return (
        f"the stream of '{split}' gave no batch: {why}; at least one is expected. A "
        "generator can be read only once: build it anew in __iter__. With "
        "drop_last=True a stream shorter than batch_size gives nothing."
    )
