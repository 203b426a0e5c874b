"""Recorded faults that depend on how many samples or graphs a batch has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from gallery.case import Program, fault
from gallery.data_recorded import accuracy, blobs, mlp, snapshots, steering
from nbutils.data.task import Task


@fault(
    "tabular",
    "squeeze() takes the batch away with it where the last batch has one sample",
    ("squeeze", "one sample", "last batch", "batch of 1"),
    seeds=("C: shape bug that depends on the batch size",),
)
def squeezed_batch(is_faulty: bool) -> Program:
    # RuntimeError against val acc 1.00
    torch.manual_seed(0)

    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 5)

        def forward(self, rows: Tensor) -> Tensor:
            scores = self.net(rows).unsqueeze(1)
            return scores.squeeze() if is_faulty else scores.squeeze(1)

    task = Task(
        Squeezed(),
        nn.CrossEntropyLoss(),
        blobs(577),
        blobs(192, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6})


@fault(
    "tabular",
    "the last batch has one sample, of which batch normalisation has no variance",
    ("batchnorm", "one sample", "last batch", "more than 1 value"),
)
def normalised_batch_of_one(is_faulty: bool) -> Program:
    # ValueError against val acc 1.00
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5)
    )
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        blobs(577),
        blobs(192, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6, "drop_last": not is_faulty})


class Stations(IterableDataset[tuple[Tensor, Tensor]]):
    """Rows of the stations whose name is asked for."""

    def __init__(self, count: int, seed: int, name: str) -> None:
        self.rows, self.labels = blobs(count, seed=seed)
        self.name = name

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        names = ("north", "south")
        for index, sample in enumerate(zip(self.rows, self.labels, strict=True)):
            if names[index % 2] == self.name:
                yield sample


@fault(
    "tabular",
    "the stream of the validation selects nothing",
    ("empty", "no batch", "no sample", "at once"),
    seeds=("V: 0 samples validated is 0 %",),
)
def nothing_to_validate(is_faulty: bool) -> Program:
    # ContractError against val acc 1.00
    torch.manual_seed(0)
    task = Task(
        mlp(8, 5),
        nn.CrossEntropyLoss(),
        Stations(1000, 0, "north"),
        Stations(200, 1, "South" if is_faulty else "south"),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6})


@fault(
    "arrays",
    "powers are asked for in decibels, and the output cannot be negative",
    ("negative", "range", "reach", "output"),
    seeds=("D: units, dB and linear",),
)
def decibels_of_positive_output(is_faulty: bool) -> Program:
    # val loss 226 against 0.0041
    torch.manual_seed(0)

    def powers(count: int, seed: int) -> tuple[Tensor, Tensor]:
        waves, _ = snapshots(count, seed=seed)
        beam = steering(torch.zeros(count), 8).unsqueeze(1) / 8
        power = (beam.conj() @ waves).abs().pow(2).mean((1, 2)).unsqueeze(1)
        target = 10 * power.log10() if is_faulty else power
        matrix = (waves @ waves.mH / 16).flatten(1)
        return torch.cat([matrix.real, matrix.imag], 1), target

    model = nn.Sequential(mlp(128, 1), nn.Softplus())
    task = Task(model, nn.MSELoss(), powers(800, 0), powers(200, 1))
    return Program(task, {"epochs": 10})


class Pooled(nn.Module):
    """Mean of what is told by the letters that a query attends to."""

    def __init__(self, masks_padding: bool) -> None:
        super().__init__()
        self.masks_padding = masks_padding
        self.each = mlp(1, 24, 24)
        self.query = nn.Parameter(0.1 * torch.randn(1, 1, 24))
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)
        self.head = mlp(24, 1, 24)

    def forward(self, readings: Tensor) -> Tensor:
        hidden = self.each(readings.unsqueeze(-1))
        query = self.query.expand(len(readings), -1, -1)
        mask = readings == 0 if self.masks_padding else None
        seen, _ = self.attention(query, hidden, hidden, key_padding_mask=mask)
        return self.head(seen.squeeze(1))


@fault(
    "sequences",
    "attention sees the padding of a batch, for want of a mask",
    ("pad", "mask", "other sample", "alone"),
)
def attention_sees_padding(is_faulty: bool) -> Program:
    # val loss 0.18 against 0.0005
    torch.manual_seed(0)

    def readings(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        samples = []
        for _ in range(count):
            length = int(torch.randint(5, 80, (), generator=draw))
            centre = 2 * torch.randn((), generator=draw)
            values = centre + torch.randn(length, generator=draw)
            samples.append((values, values.mean().view(1)))
        return samples

    def padded(samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        values = nn.utils.rnn.pad_sequence([s[0] for s in samples], True)
        return values, torch.stack([s[1] for s in samples])

    task = Task(
        Pooled(not is_faulty),
        nn.MSELoss(),
        readings(600, 0),
        readings(150, 1),
        collate=padded,
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})
