"""Samples read one by one, in this process or in workers, with seeds of their own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nbutils.data.collate import collate
from nbutils.data.loader import LoadPlan, OrderedLoader, add_context
from nbutils.data.order import mix
from nbutils.data.rng import preserved_rng, seed_rng
from nbutils.data.sources import is_plain
from nbutils.data.workers import explain_death, quiet_start, shut_down

__all__ = ["MapLoader"]

_Key = tuple[int, list[int]]


class _SeededBatches(Dataset[Any]):
    """Batches by key (epoch, indices): reads each sample under a seed of its own."""

    def __init__(self, data: Any, plan: LoadPlan, is_random: bool) -> None:
        self.data = data
        self.split = plan.split
        self.seed = plan.seed
        self.collate = plan.collate
        self.is_random = is_random

    def __getitem__(self, key: _Key) -> Any:
        epoch, indices = key
        samples = [self._read(epoch, index) for index in indices]
        try:
            return self.collate(samples)
        except Exception as error:
            add_context(error, f"while collating samples {indices} of '{self.split}'")
            raise

    def _read(self, epoch: int, index: int) -> Any:
        if self.is_random:
            seed_rng(mix(self.seed, epoch, index))
        try:
            return self.data[index]
        except Exception as error:
            add_context(error, f"while reading sample {index} of '{self.split}'")
            raise


class _Keys:
    """The keys of the batches from the loader's position on."""

    def __init__(self, loader: MapLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[_Key]:
        # Validation transforms must be the same in each epoch to be comparable.
        epoch = self._loader.epoch if self._loader.split == "train" else 0
        remaining: Iterator[Tensor] = self._loader.remaining()
        return ((epoch, index.tolist()) for index in remaining)


class MapLoader(OrderedLoader):
    """Batches of a map-style dataset.

    The random numbers of a sample's transform come from (seed, epoch, index), for
    torch, numpy and ``random``, hence do not depend on ``num_workers``; in this process
    the generators are as before after each batch. Workers live as long as the loader.

    Args:
        plan: How to read.
        data: Anything with ``__len__`` and ``__getitem__``.
    """

    def __init__(self, plan: LoadPlan, data: Any) -> None:
        super().__init__(plan, len(data))
        # Seeding costs some 20 µs a sample: not where no code of the user runs.
        self._is_random = not (is_plain(data) and plan.collate is collate)
        self._batches = _SeededBatches(data, plan, self._is_random)
        self._torch_loader: DataLoader[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._torch_loader is None:
            self._torch_loader = self._make_torch_loader()
        with preserved_rng(), quiet_start():
            iterator = iter(self._torch_loader)
        return self._fetch(iterator, len(self) - self.batch)

    def _fetch(self, iterator: Iterator[Any], count: int) -> Iterator[Any]:
        for _ in range(count):
            try:
                with self._guard(), explain_death(iterator, self.split):
                    batch = next(iterator)
            except Exception:
                self.close()  # the workers' queues may be torn: start anew next time
                shut_down(iterator)
                raise
            yield batch

    def _guard(self) -> AbstractContextManager[None]:
        """Keeps the generators of this process, where samples are read in it."""
        is_here = self._is_random and self.plan.num_workers == 0
        return preserved_rng() if is_here else nullcontext()

    def _make_torch_loader(self) -> DataLoader[Any]:
        options: dict[str, Any] = {}
        if self.plan.num_workers:
            options = dict(self.plan.worker_options)
            start = _WorkerStart(options.pop("worker_init_fn", None))
            options.update(worker_init_fn=start, persistent_workers=True)
        return DataLoader(
            self._batches,
            batch_size=None,  # a key makes a whole batch
            sampler=_Keys(self),
            collate_fn=_unchanged,
            num_workers=self.plan.num_workers,
            pin_memory=self.plan.pin_memory,
            generator=torch.Generator(),  # else it would draw from the global one
            **options,
        )

    def close(self) -> None:
        """End the worker processes; iterating starts new ones."""
        self._torch_loader = None


class _WorkerStart:
    """Lets a worker ignore interrupts, then runs the user's own start.

    A forked worker inherits the handlers of the run: an interrupt would make it act as
    if it were the run. SIGTERM is left to torch's own handler, set before this one
    runs: it ends a worker quietly when the parent asks for it.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._then is not None:
            self._then(worker)


def _unchanged(batch: Any) -> Any:
    return batch
