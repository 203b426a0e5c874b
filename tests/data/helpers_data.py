"""Small real objects for the tests of data."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from nbutils.data import Task


def make_config(seed: int = 0, given: tuple[str, ...] = (), **data: Any) -> Any:
    """What loaders read of a RunConfig; ``given`` are the leaves a user set."""
    leaves = {
        "batch_size": 4,
        "num_workers": 0,
        "shuffle": True,
        "drop_last": False,
        **data,
    }
    return SimpleNamespace(
        data=SimpleNamespace(**leaves),
        train=SimpleNamespace(seed=seed),
        origin=lambda key: "keyword" if key in given else "default",
    )


def make_task(train_data: Any, **options: Any) -> Task:
    """A task around a small linear model."""
    return Task(nn.Linear(3, 2), nn.CrossEntropyLoss(), train_data, **options)


class Noisy(Dataset[Any]):
    """Samples with random numbers of all three sources; counts its reads."""

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        noise = [torch.rand(()).item(), float(np.random.rand()), random.random()]
        return torch.tensor([index, *noise], dtype=torch.float64), index


class Broken(Dataset[Any]):
    """Sample 2 cannot be read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            raise OSError("scan.png is cut off")
        return torch.zeros(3), 0


class Stream(IterableDataset[Any]):
    """Samples from a generator, with a random number each."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Any:
        for number in range(self.length):
            yield torch.tensor([float(number), torch.rand(()).item()]), number
