"""Faults in data sets that are read by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
)

from gallery.case import Program, fault
from gallery.data_recorded import accuracy, blobs, mlp
from nbutils.data.task import Task

Sample = tuple[Tensor, Tensor]


def _task(train: Any, val: Any = None, model: nn.Module | None = None) -> Task:
    model = mlp(8, 5) if model is None else model
    held_out = blobs(200, seed=1) if val is None else val
    metrics = {"acc": accuracy}
    return Task(model, nn.CrossEntropyLoss(), train, held_out, metrics=metrics)


class Rows(Dataset[Sample]):
    """Rows of a table, read by number."""

    def __init__(self, count: int, seed: int = 0, length: int | None = None) -> None:
        rows, labels = blobs(count, seed=seed)
        self.samples = list(zip(rows, labels, strict=True))
        self.length = count if length is None else length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@fault(
    "tabular",
    "the data set tells one sample more than it has",
    ("index", "__len__", "out of range", "cannot be read"),
)
def length_one_too_large(is_faulty: bool) -> Program:
    # IndexError against val acc 1.00
    torch.manual_seed(0)
    return Program(_task(Rows(600, length=601 if is_faulty else 600)), {"epochs": 6})


class FirstRows(Rows):
    """Ignores the index within a block of a hundred rows."""

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index // 100 * 100]


@fault(
    "tabular",
    "a data set gives the first row of its block for every index of that block",
    ("identical", "duplicate", "distinct", "repeat"),
)
def index_of_block(is_faulty: bool) -> Program:
    # val acc 0.78 against 1.00
    torch.manual_seed(0)
    return Program(_task((FirstRows if is_faulty else Rows)(600)), {"epochs": 6})


class Scaled(Rows):
    """Rows in tenths, divided by ten as they are read."""

    def __init__(self, count: int, is_in_place: bool) -> None:
        super().__init__(count)
        self.samples = [(10 * row, label) for row, label in self.samples]
        self.is_in_place = is_in_place

    def __getitem__(self, index: int) -> Sample:
        row, label = self.samples[index]
        return (row.div_(10) if self.is_in_place else row / 10), label


@fault(
    "tabular",
    "rows are scaled in place, so that each epoch scales them once more",
    ("in place", "in-place", "twice", "same index"),
)
def scaled_in_place(is_faulty: bool) -> Program:
    # val acc 0.95 against 1.00
    torch.manual_seed(0)
    return Program(_task(Scaled(600, is_faulty)), {"epochs": 6})


class Holes(Rows):
    """Rows of which a few are broken."""

    def __init__(self, count: int, broken: dict[int, Tensor]) -> None:
        super().__init__(count)
        for index, row in broken.items():
            self.samples[index] = (row, self.samples[index][1])


@fault(
    "tabular",
    "some rows deep in the data have a value that is not a number",
    ("nan", "finite", "not a number"),
    seeds=("A: corrupt sample",),
)
def some_nan_rows(is_faulty: bool) -> Program:
    # SkipBudgetError against val acc 1.00
    torch.manual_seed(0)
    row = torch.zeros(8)
    row[3] = float("nan")
    broken = dict.fromkeys(range(311, 600, 15), row) if is_faulty else {}
    return Program(_task(Holes(600, broken)), {"epochs": 6})


@fault(
    "tabular",
    "a sample deep in the data has another shape",
    ("shape", "stack"),
    seeds=("V: odd-sized image",),
)
def one_odd_shape(is_faulty: bool) -> Program:
    # ContractError against val acc 1.00
    torch.manual_seed(0)
    broken = {477: torch.zeros(9)} if is_faulty else {}
    return Program(_task(Holes(600, broken)), {"epochs": 6})


class Broken(Rows):
    """Rows of which one cannot be read."""

    def __getitem__(self, index: int) -> Sample:
        if index == 388:
            raise OSError("truncated file: row 388")
        return self.samples[index]


@fault(
    "tabular",
    "a sample deep in the data cannot be read",
    ("388", "truncated", "cannot be read"),
    seeds=("V: truncated file",),
)
def one_unreadable_sample(is_faulty: bool) -> Program:
    # OSError against val acc 1.00
    torch.manual_seed(0)
    return Program(_task((Broken if is_faulty else Rows)(600)), {"epochs": 6})


def first_label_only(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Rows, and the label of the first one for all."""
    rows = torch.stack([row for row, _ in samples])
    return rows, torch.stack([samples[0][1] for _ in samples])


@fault(
    "tabular",
    "collate gives every sample of a batch the label of the first one",
    ("collate", "constant", "one class", "same label"),
)
def collate_repeats_label(is_faulty: bool) -> Program:
    # val acc 0.31 against 1.00
    torch.manual_seed(0)
    train = Rows(600)
    collate = first_label_only if is_faulty else None
    loader = DataLoader(train, 32, shuffle=True, collate_fn=collate)
    return Program(_task(loader), {"epochs": 6})
