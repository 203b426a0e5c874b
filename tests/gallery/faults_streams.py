"""Faults in data sets, streams, samplers and loaders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from gallery.case import Program, fault
from gallery.data_recorded import accuracy, blobs, figures, mlp, small_cnn
from nbutils.data.task import Task

Sample = tuple[Tensor, Tensor]


def _task(train: Any, val: Any = None, model: nn.Module | None = None) -> Task:
    model = mlp(8, 5) if model is None else model
    held_out = blobs(200, seed=1) if val is None else val
    metrics = {"acc": accuracy}
    return Task(model, nn.CrossEntropyLoss(), train, held_out, metrics=metrics)


class Stream(IterableDataset[Sample]):
    """Samples of an iterable, or of a function that makes a fresh one."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.source() if callable(self.source) else self.source)


@fault(
    "tabular",
    "the stream is a generator, which is empty after one epoch",
    ("second", "exhaust", "start anew", "once"),
)
def stream_ends_after_one_epoch(is_faulty: bool) -> Program:
    # ContractError against val acc 1.00
    torch.manual_seed(0)

    def samples() -> Iterator[Sample]:
        yield from zip(*blobs(400), strict=True)

    train = Stream(samples() if is_faulty else samples)
    return Program(_task(train), {"epochs": 6})


@fault(
    "tabular",
    "the stream reads each shard from the start, and so repeats its first samples",
    ("repeat", "identical", "duplicate", "distinct"),
)
def stream_repeats_its_start(is_faulty: bool) -> Program:
    # val acc 0.74 against 1.00
    torch.manual_seed(0)
    samples = list(zip(*figures(600), strict=True))

    def shards() -> Iterator[Sample]:
        for start in range(0, 600, 20):
            first = 0 if is_faulty else start
            yield from itertools.islice(samples, first, first + 20)

    task = _task(Stream(shards), figures(200, seed=1), small_cnn())
    return Program(task, {"epochs": 6})


@fault(
    "tabular",
    "the stream never ends, and only epochs are to end the run",
    ("endless", "infinite", "max_steps", "never end"),
)
def endless_stream(is_faulty: bool) -> Program:
    # does not end within a minute, against 80 steps in 0.3 s
    torch.manual_seed(0)

    def samples() -> Iterator[Sample]:
        for seed in itertools.count():
            yield from zip(*blobs(100, seed=10 + seed), strict=True)

    settings: dict[str, Any] = {"epochs": 5}
    if not is_faulty:
        settings["max_steps"] = 80
    return Program(_task(Stream(samples)), settings)


@fault(
    "tabular",
    "the stream of the validation never ends",
    ("endless", "infinite", "never end", "does not end"),
)
def endless_validation(is_faulty: bool) -> Program:
    # does not end within a minute, against 6 epochs in 1 s
    torch.manual_seed(0)

    def samples() -> Iterator[Sample]:
        rows = list(zip(*blobs(200, seed=1), strict=True))
        return itertools.cycle(rows) if is_faulty else iter(rows)

    return Program(_task(blobs(600), Stream(samples)), {"epochs": 6})


@fault(
    "images",
    "the weights of a sampler are per class, and it draws the first six samples only",
    ("sampler", "distinct", "repeat", "weights"),
)
def weights_per_class(is_faulty: bool) -> Program:
    # val acc 0.46 against 0.98
    torch.manual_seed(0)
    images, label = figures(600)
    per_class = 1 / label.bincount(minlength=6).float()
    weights = per_class if is_faulty else per_class[label]
    train = DataLoader(
        TensorDataset(images, label),
        batch_size=32,
        sampler=WeightedRandomSampler(weights.tolist(), 600),
    )
    return Program(_task(train, figures(200, seed=1), small_cnn()), {"epochs": 5})


@fault(
    "tabular",
    "the sampler of the training loader holds the indices of the validation too",
    ("overlap", "training sample", "shares samples", "leak"),
)
def sampler_of_both_splits(is_faulty: bool) -> Program:
    # val loss 0.02 by heart against 0.10
    torch.manual_seed(0)
    rows, label = blobs(400)
    data = TensorDataset(rows + 1.2 * torch.randn(400, 8), label)
    order = torch.randperm(400).tolist()
    chosen = order if is_faulty else order[100:]
    train = DataLoader(data, 32, sampler=SubsetRandomSampler(chosen))
    val = DataLoader(data, 64, sampler=SubsetRandomSampler(order[:100]))
    return Program(_task(train, val, mlp(8, 5, 512)), {"epochs": 8, "lr": 3e-3})


@fault(
    "tabular",
    "the loader drops the last batch and has no other one",
    ("no batch", "drop_last", "0 batch", "zero batch"),
)
def loader_without_batches(is_faulty: bool) -> Program:
    # ContractError against val acc 1.00
    torch.manual_seed(0)
    data = TensorDataset(*blobs(100))
    train = DataLoader(data, 128, shuffle=True, drop_last=is_faulty)
    return Program(_task(train), {"epochs": 40, "lr": 1e-2})


@fault(
    "images",
    "the loader does not shuffle data that are sorted by class",
    ("shuffle", "sorted", "order"),
)
def loader_of_sorted_data(is_faulty: bool) -> Program:
    # val acc 0.66 against 1.00
    torch.manual_seed(0)
    images, label = figures(800)
    order = label.argsort()
    data = TensorDataset(images[order], label[order])
    train = DataLoader(data, batch_size=16, shuffle=not is_faulty)
    return Program(_task(train, figures(200, seed=1), small_cnn()), {"epochs": 5})


class Shards(IterableDataset[Sample]):
    """Rows, of which each worker reads its share where ``is_shared``."""

    def __init__(self, count: int, is_shared: bool) -> None:
        self.samples = list(zip(*blobs(count), strict=True))
        self.is_shared = is_shared

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        if worker is None or not self.is_shared:
            return iter(self.samples)
        return iter(self.samples[worker.id :: worker.num_workers])


@fault(
    "tabular",
    "each of two workers reads the whole stream, so that all comes twice",
    ("worker", "twice", "duplicate"),
)
def stream_read_by_each_worker(is_faulty: bool) -> Program:
    # 40 steps against 20 in two epochs of 320 samples
    torch.manual_seed(0)
    return Program(_task(Shards(320, not is_faulty)), {"epochs": 2, "num_workers": 2})
