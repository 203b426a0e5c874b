"""The data of a task as the run will read them, and the batches worth trying."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler

from nbutils.data.batch import batch_size
from nbutils.data.loader import Loader, OrderedLoader
from nbutils.data.loaders import make_loader
from nbutils.errors import ContractError
from nbutils.preflight.scan import Scan, scan, scan_batches

__all__ = ["Case", "DataProbe"]

NUM_FIRST = 6
MAX_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """One batch to try.

    Args:
        split: Where it comes from.
        size: Batch size asked for; none: as the run makes it.
        number: Its position in the epoch.
        num_samples: Samples in it.
        is_met: Whether the run will meet such a batch.
    """

    split: str
    size: int | None
    number: int
    num_samples: int
    is_met: bool = True

    @property
    def name(self) -> str:
        """How the card calls it."""
        kind = "last batch" if self.number else "batch"
        return f"{self.split} {kind} of {self.num_samples}"


class DataProbe:
    """Samples and batches of a task, each read once.

    Args:
        task: The task under test.
        config: The effective configuration.
    """

    def __init__(self, task: Any, config: Any) -> None:
        self.task = task
        self.config = config
        self._batches: dict[tuple[str, int | None, int], Any] = {}
        self._scans: dict[str, Scan | None] = {}
        self._tables: dict[str, Scan | None] = {}

    @cached_property
    def configured_size(self) -> int:
        """Samples in the first training batch, as the run will make it."""
        return batch_size(self.batch("train"))

    def has(self, split: str) -> bool:
        """Whether the task brings this split."""
        return getattr(self.task, f"{split}_data", None) is not None

    def loader(self, split: str, size: int | None = None) -> Loader:
        """The run's own loader of a split, read in this process."""
        config = self.config.replace(num_workers=0)
        if size is not None:
            config = config.replace(drop_last=False)
        return make_loader(self.task, split, config, batch_size=size)

    def samples(self, split: str) -> Any | None:
        """The split as something indexed, or none if it can only be iterated."""
        if not self.has(split) or not isinstance(self.loader(split), OrderedLoader):
            return None
        data = self.task.dataset(split)
        return data.dataset if isinstance(data, DataLoader) else data

    def scan(self, split: str) -> Scan | None:
        """Statistics over the samples of an indexed split, read once; none if not."""
        if split not in self._scans:
            data = self.samples(split)
            self._scans[split] = None if data is None else scan(data)
        return self._scans[split]

    def pool(self, split: str) -> tuple[Any, list[int] | None] | None:
        """Where a split's samples lie: something indexed, and which rows of it.

        Unlike :meth:`samples` this sees through a ``DataLoader`` with a sampler, whose
        rows are none (all) unless it draws from a fixed choice of them.
        """
        data = self.task.dataset(split) if self.has(split) else None
        sampler = data.sampler if isinstance(data, DataLoader) else None
        data = data.dataset if isinstance(data, DataLoader) else data
        if data is None or isinstance(data, IterableDataset):
            return None
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            return None
        is_choice = isinstance(sampler, SubsetRandomSampler)
        return data, [int(index) for index in sampler.indices] if is_choice else None

    def table(self, split: str) -> Scan | None:
        """Samples row by row: of the pool, or of the first batches of a stream."""
        if split not in self._tables:
            self._tables[split] = self._table(split)
        return self._tables[split]

    def _table(self, split: str) -> Scan | None:
        if not self.has(split):
            return None
        if self.samples(split) is not None:
            return self.scan(split)
        pool = self.pool(split)
        return scan_batches(self.first(split)) if pool is None else scan(*pool)

    def first(self, split: str, count: int = NUM_FIRST) -> list[Any]:
        """The first batches of an epoch, fewer where reading them takes long."""
        loader = self.loader(split)
        loader.set_position(0, 0)
        found: list[Any] = []
        deadline = time.perf_counter() + MAX_SECONDS
        for batch in islice(loader, count):
            found.append(batch)
            if time.perf_counter() > deadline:
                break
        return found

    def batch(self, split: str, size: int | None = None, number: int = 0) -> Any:
        """Batch ``number`` of the first epoch, on the host; read once.

        Args:
            split: Which data.
            size: Samples per batch; none: as the run will make it.
            number: Position within the epoch.

        Raises:
            ContractError: The split gives no such batch.
        """
        key = (split, size, number)
        if key not in self._batches:
            loader = self.loader(split, size)
            loader.set_position(0, number)
            batches = list(islice(loader, 1))
            if not batches:
                raise ContractError(
                    f"'{split}' gave no batch {number}; at least one batch is "
                    "expected. Check the data and drop_last."
                )
            self._batches[key] = batches[0]
        return self._batches[key]

    def collate(self, samples: list[Any]) -> Any:
        """Samples of an indexed train split as the run will batch them."""
        loader = self.loader("train")
        if not isinstance(loader, OrderedLoader):
            raise ContractError("a stream makes its own batches; it cannot collate.")
        return loader.plan.collate(samples)

    def cases(self) -> list[Case]:
        """Every batch to try: as the run makes it, the tails, and sizes 1 and 2."""
        found = [Case("train", None, 0, self.configured_size)]
        for split in ("train", "val"):
            found += self._split_cases(split) if self.has(split) else []
        met = {case.num_samples for case in found}
        if self.samples("train") is not None and self.configured_size > 1:
            small = [size for size in (1, 2) if size not in met]
            found += [Case("train", size, 0, size, False) for size in small]
        return found

    def _split_cases(self, split: str) -> list[Case]:
        loader = self.loader(split)
        cases: list[Case] = []
        if split != "train":
            cases.append(Case(split, None, 0, batch_size(self.batch(split))))
        if isinstance(loader, OrderedLoader) and len(loader) > 1:
            last = len(loader) - 1
            num_last = len(loader.indices(last))
            if num_last != len(loader.indices(0)):
                cases.append(Case(split, None, last, num_last))
        return cases
