"""Faults in what the splits hold and in how they were made."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_recorded import accuracy, blobs, figures, mlp, plates, small_cnn
from nbutils.data.task import Task


def _classifier(train: Any, val: Any, features: int = 8) -> Task:
    return Task(
        mlp(features, 5), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )


@fault(
    "images",
    "data sorted by class are read in that order",
    ("shuffle", "sorted", "order"),
)
def sorted_and_not_shuffled(is_faulty: bool) -> Program:
    # val acc 0.76 against 0.99
    torch.manual_seed(0)
    images, label = figures(800)
    order = label.argsort()
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        (images[order], label[order]),
        figures(200, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6, "shuffle": not is_faulty})


@fault(
    "tabular",
    "every sample of the validation is in the training data too",
    ("overlap", "training sample", "shares samples", "leak"),
)
def validation_in_train(is_faulty: bool) -> Program:
    # val acc 1.00 by heart against 0.94
    torch.manual_seed(0)
    rows, label = blobs(400)
    rows = rows + 1.2 * torch.randn(400, 8)
    draw = torch.randperm(400)
    kept, held_out = draw if is_faulty else draw[100:], draw[:100]
    task = Task(
        mlp(8, 5, 512),
        nn.CrossEntropyLoss(),
        (rows[kept], label[kept]),
        (rows[held_out], label[held_out]),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 15, "lr": 1e-2})


@fault(
    "dicts",
    "the mass to be predicted is among the features",
    ("leak", "column", "copy", "target in"),
)
def target_among_features(is_faulty: bool) -> Program:
    # val loss 0.0002 for what is not known in time, against 0.09
    torch.manual_seed(0)

    def table(count: int, seed: int) -> dict[str, Tensor]:
        rows, mass = plates(count, seed)
        extra = mass / 10 if is_faulty else torch.ones_like(mass)
        return {"features": torch.cat([rows, extra], 1), "mass": mass / 10}

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.mse_loss(outputs, batch["mass"])

    task = Task(
        mlp(5, 1),
        loss,
        table(800, 0),
        table(200, 1),
        forward=lambda model, batch: model(batch["features"]),
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "tabular",
    "the validation is standardised with other statistics than the training data",
    ("normali", "standardi", "scale", "distribution"),
    seeds=("C: scaling parity",),
)
def other_statistics(is_faulty: bool) -> Program:
    # val loss 0.30 against 0.0071
    torch.manual_seed(0)
    rows, mass = plates(1000)
    train, val = rows[:800], rows[800:]
    mean, spread = train.mean(0), train.std(0)
    scaled = (val - mean) if is_faulty else (val - mean) / spread
    task = Task(
        mlp(4, 1),
        nn.MSELoss(),
        ((train - mean) / spread, mass[:800] / 10),
        (scaled * 1.0, mass[800:] / 10),
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "tabular",
    "the targets of the validation were scaled twice",
    ("scale", "distribution", "range", "spread"),
    seeds=("C: targets scaled twice",),
)
def targets_scaled_twice(is_faulty: bool) -> Program:
    # val loss 3.13 against 0.18
    torch.manual_seed(0)
    rows, mass = plates(1000)
    mean, spread = mass[:800].mean(), mass[:800].std()

    def scale(values: Tensor) -> Tensor:
        return (values - mean) / spread

    held_out = scale(mass[800:])
    task = Task(
        mlp(4, 1),
        nn.MSELoss(),
        (rows[:800], scale(mass[:800])),
        (rows[800:], scale(held_out) if is_faulty else held_out),
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Pictures, shifted, darkened and partly erased where ``is_random``."""

    def __init__(self, count: int, seed: int, is_random: bool) -> None:
        self.images, self.labels = figures(count, seed=seed)
        self.is_random = is_random

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        if self.is_random:
            image = image.roll(int(torch.randint(-4, 5, ())), -1) * torch.rand(())
            image[:, : int(torch.randint(9, ()))] = 0.2
        return image, self.labels[index]


@fault(
    "images",
    "the validation is augmented at random, as the training data are",
    ("random", "augment", "determin", "twice"),
    seeds=("V: random_split subsets share one transform",),
)
def validation_augmented(is_faulty: bool) -> Program:
    # val acc 0.81 against 0.95
    torch.manual_seed(0)
    train, val = Augmented(800, 0, True), Augmented(200, 1, is_faulty)
    task = Task(
        small_cnn(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


@fault(
    "tabular",
    "the training data are given as the validation as well",
    ("overlap", "training sample", "same object", "both splits"),
)
def validation_is_train(is_faulty: bool) -> Program:
    # val acc 1.00 by heart against 0.94
    torch.manual_seed(0)
    rows, label = blobs(400)
    rows = rows + 1.2 * torch.randn(400, 8)
    train = (rows[:300], label[:300])
    val = train if is_faulty else (rows[300:], label[300:])
    task = Task(
        mlp(8, 5, 512), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 15, "lr": 1e-2})


@fault(
    "tabular",
    "the validation has three samples",
    ("3 sample", "few", "tiny", "too small"),
)
def three_samples_to_validate(is_faulty: bool) -> Program:
    # val acc 0.67 against 0.83
    torch.manual_seed(0)
    count = 3 if is_faulty else 200
    rows, label = blobs(count, seed=3)
    noisy = torch.where(torch.rand(count) < 0.2, torch.randint(5, (count,)), label)
    return Program(
        _classifier(blobs(600), (rows, noisy)),
        {"epochs": 6, "monitor": "val_acc", "mode": "max"},
    )


@fault(
    "arrays",
    "angles of the training data are in degrees, those of the validation in radians",
    ("radian", "scale", "distribution", "range"),
    seeds=("D: units",),
)
def degrees_and_radians(is_faulty: bool) -> Program:
    # val loss 14150 against 0.011
    torch.manual_seed(0)

    def tides(count: int, seed: int, in_degrees: bool) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        angles = (torch.rand(count, 3, generator=draw) - 0.5) * 2 * math.pi
        pull = (angles.cos() * torch.tensor([1.0, 0.46, 0.2])).sum(1, keepdim=True)
        return (angles.rad2deg() if in_degrees else angles), pull

    task = Task(
        mlp(3, 1),
        nn.MSELoss(),
        tides(800, 0, in_degrees=False),
        tides(200, 1, in_degrees=is_faulty),
    )
    return Program(task, {"epochs": 15, "lr": 1e-2})
