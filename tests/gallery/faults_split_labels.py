"""Faults in the labels of a split, and in what it repeats or lacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_recorded import accuracy, blobs, figures, mlp, small_cnn
from nbutils.data.task import Task


def _classifier(train: Any, val: Any, features: int = 8) -> Task:
    return Task(
        mlp(features, 5), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )


@fault(
    "tabular",
    "the labels are one row behind the inputs",
    ("chance", "learn", "baseline", "unrelated"),
    seeds=("A: mock labels independent of inputs",),
)
def labels_one_row_behind(is_faulty: bool) -> Program:
    # val acc 0.18 against 1.00
    torch.manual_seed(0)
    rows, label = blobs(800)
    if is_faulty:
        label = label.roll(1)
    return Program(
        _classifier((rows[:600], label[:600]), (rows[600:], label[600:])),
        {"epochs": 8},
    )


@fault(
    "tabular",
    "the labels were shuffled, the rows were not",
    ("chance", "learn", "baseline", "unrelated"),
    seeds=("A: mock labels random, independent of inputs",),
)
def labels_shuffled(is_faulty: bool) -> Program:
    # val acc 0.21 against 1.00
    torch.manual_seed(0)
    rows, label = blobs(800)
    order = torch.randperm(800)
    rows, label = rows[order], label if is_faulty else label[order]
    return Program(
        _classifier((rows[:600], label[:600]), (rows[600:], label[600:])),
        {"epochs": 8},
    )


class Patients(Dataset[tuple[Tensor, Tensor]]):
    """Rows with a label; one that was not found is drawn."""

    def __init__(self, count: int, seed: int, labels_found: bool) -> None:
        self.rows, self.labels = blobs(count, seed=seed)
        self.labels_found = labels_found

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        found = self.labels[index] if self.labels_found else torch.randint(5, ())
        return self.rows[index], found


@fault(
    "tabular",
    "labels of the validation that are not found are drawn at random when read",
    ("random", "determin", "twice", "same index"),
    seeds=("A: loss against a randn target",),
)
def validation_labels_drawn(is_faulty: bool) -> Program:
    # val acc 0.25 against 1.00
    torch.manual_seed(0)
    train, val = Patients(600, 0, True), Patients(150, 1, not is_faulty)
    return Program(_classifier(train, val), {"epochs": 6})


@fault(
    "images",
    "two classes of the validation do not occur in the training data",
    ("class", "missing", "absent", "never"),
    seeds=("V: labels only 0-25 of 30",),
)
def classes_not_in_train(is_faulty: bool) -> Program:
    # val acc 0.68 against 0.98
    torch.manual_seed(0)
    images, label = figures(1000)
    keep = label < 4 if is_faulty else torch.rand(1000) < 0.67
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        (images[keep], label[keep]),
        figures(200, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6})


@fault(
    "images",
    "the same forty pictures were written twenty times each",
    ("duplicate", "identical", "repeat", "distinct"),
)
def forty_pictures_repeated(is_faulty: bool) -> Program:
    # val acc 0.81 against 0.98
    torch.manual_seed(0)
    if is_faulty:
        few, label = figures(40)
        train = (few.repeat(20, 1, 1, 1), label.repeat(20))
    else:
        train = figures(800)
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        train,
        figures(200, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6})
