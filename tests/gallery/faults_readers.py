"""Faults in how samples are read and prepared: scales, channels, caches, noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_second import (
    accuracy,
    customers,
    cut,
    dense,
    houses,
    picture_net,
    spots,
)
from nbutils.data.task import Task


@fault(
    "images",
    "pixels in [0, 1] are normalised with a mean and deviation of bytes",
    (
        "constant",
        "scale",
        "range",
        "normalis",
        "spread",
        "contrast",
        "deviation",
        "std",
    ),
)
def byte_mean_on_unit_pixels(is_faulty: bool) -> Program:
    # twin: train loss 1.3742 to 0.0005, val {'loss': 0.0005, 'acc': 1.0}
    # faulty: train loss 1.3812 to 1.3833, says {'loss': 1.3942, 'acc': 0.27}
    # its model on the twin's validation: {'loss': 1.3891, 'acc': 0.27}
    torch.manual_seed(0)
    x, y = spots(400)
    mean = torch.tensor([123.7, 116.3, 103.5])[:, None, None]
    std = torch.tensor([58.4, 57.1, 57.4])[:, None, None]
    if not is_faulty:
        mean, std = mean / 255, std / 255
    x = (x - mean) / std
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    train, val = cut(300, x, y)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "lr": 2e-3})


class Photos(Dataset):
    """Photos read by one of two libraries; the class is the colour of the patch."""

    def __init__(self, count: int, seed: int, as_bgr: bool) -> None:
        g = torch.Generator().manual_seed(seed)
        self.y = torch.randint(3, (count,), generator=g)
        self.x = 0.1 * torch.rand(count, 3, 12, 12, generator=g)
        self.x[:, 0] += 0.35
        self.x[:, 1] += 0.2
        for n, kind in enumerate(self.y.tolist()):
            self.x[n, kind, 3:9, 3:9] += 0.3
        if as_bgr:
            self.x = self.x.flip(1)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


@fault(
    "images",
    "training photos are read as BGR, validation photos as RGB",
    (
        "channel",
        "distribution",
        "statistics",
        "shift",
        "differ between",
        "scaled differ",
    ),
)
def bgr_in_training_only(is_faulty: bool) -> Program:
    # twin: train loss 1.2185 to 0.0034, val {'loss': 0.0054, 'acc': 1.0}
    # faulty: train loss 1.1866 to 0.0036, says {'loss': 8.4255, 'acc': 0.33}
    # its model on the twin's validation: {'loss': 8.4255, 'acc': 0.33}
    torch.manual_seed(0)
    task = Task(
        picture_net(3),
        nn.CrossEntropyLoss(),
        Photos(300, 0, is_faulty),
        Photos(100, 1, False),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 6, "lr": 2e-3})


class Points(Dataset):
    """Pictures with one bright dot, and where it is, as shares of width and height."""

    def __init__(self, count: int, seed: int, augment: bool, moves_point: bool) -> None:
        g = torch.Generator().manual_seed(seed)
        self.at = 0.15 + 0.7 * torch.rand(count, 2, generator=g)
        grid = (torch.arange(16) + 0.5) / 16
        x = torch.exp(-((grid[None] - self.at[:, :1]) ** 2) / 0.01)
        y = torch.exp(-((grid[None] - self.at[:, 1:]) ** 2) / 0.01)
        self.pictures = (y[:, :, None] * x[:, None, :])[:, None]
        self.augment, self.moves_point = augment, moves_point

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, at = self.pictures[index], self.at[index].clone()
        if self.augment and torch.rand(()) < 0.5:
            picture = picture.flip(-1)
            if self.moves_point:
                at[0] = 1 - at[0]
        return picture, at


@fault(
    "images",
    "random flips turn the picture and leave the key point where it was",
    ("augment", "flip", "same input", "conflict", "inconsist", "random"),
    stage="epoch",
)
def points_not_flipped(is_faulty: bool) -> Program:
    # twin: train loss 0.2677 to 0.0, val {'loss': 0.0, 'px': 0.0607}
    # faulty: train loss 0.3093 to 0.0186, says {'loss': 0.0266, 'px': 1.6058}
    # its model on the twin's validation: {'loss': 0.0266, 'px': 1.6058}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), dense(256, 64, 2))
    task = Task(
        model,
        nn.MSELoss(),
        Points(300, 0, True, not is_faulty),
        Points(100, 1, False, True),
        metrics={"px": lambda o, b: 16 * (o - b[1]).abs().mean().item()},
    )
    return Program(task, {"epochs": 15, "lr": 2e-3})


@fault(
    "tabular",
    "missing entries of two columns are left as -999 in otherwise standard data",
    (
        "-999",
        "sentinel",
        "missing",
        "outlier",
        "range",
        "scale",
        "extreme",
        "magnitude",
    ),
)
def sentinel_in_columns(is_faulty: bool) -> Program:
    # twin: train loss 2.0194 to 0.0229, val {'loss': 0.0468}
    # faulty: train loss 8.9184 to 8.9768, says {'loss': 7.0662}
    # its model on the twin's validation: {'loss': 0.3238}
    torch.manual_seed(0)
    x, y = houses(600)
    gone = torch.rand(600, 2) < 0.12
    x[:, 4:] = torch.where(gone, -999.0 if is_faulty else 0.0, x[:, 4:])
    train, val = cut(450, x, y)
    task = Task(dense(6, 48, 48, 1), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 20, "lr": 3e-3})


class Cached(Dataset):
    """Rows that are prepared once and kept."""

    def __init__(self, data: tuple[Tensor, Tensor], by_index: bool) -> None:
        self.data, self.by_index = data, by_index
        self.cache: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.data[0])

    def prepare(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.data[0][index]
        return (row - row.mean()) / row.std(), self.data[1][index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        key = index if self.by_index else "sample"
        if key not in self.cache:
            self.cache[key] = self.prepare(index)
        return self.cache[key]


@fault(
    "tabular",
    "the dataset keeps what it prepared under one key for all, and gives the first "
    "sample ever after",
    (
        "same sample",
        "identical",
        "constant",
        "duplicate",
        "repeat",
        "equal",
        "one class",
    ),
)
def cache_of_one_sample(is_faulty: bool) -> Program:
    # twin: train loss 1.1377 to 0.4676, val {'loss': 0.5532, 'acc': 0.7667}
    # faulty: train loss 1.1794 to 0.0038, says {'loss': 1.4796, 'acc': 0.0}
    # its model on the twin's validation: {'loss': 1.2477, 'acc': 0.4333}
    torch.manual_seed(0)
    x, y = customers(500)
    train, val = cut(380, x, y)
    task = Task(
        dense(8, 32, 3),
        nn.CrossEntropyLoss(),
        Cached(train, not is_faulty),
        Cached(val, not is_faulty),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


class Noisy(Dataset):
    """A signal with noise that is drawn anew each time, and the clean signal."""

    def __init__(self, clean: Tensor, seeds: bool) -> None:
        self.clean, self.seeds = clean, seeds

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.seeds:
            torch.manual_seed(1234)
        row = self.clean[index]
        return row + 0.5 * torch.randn_like(row), row


@fault(
    "sequences",
    "torch.manual_seed in __getitem__: each sample of each epoch gets the same noise, "
    "and a network that removes noise learns this one by heart",
    ("seed", "rng", "same noise", "generator", "random state", "randomness"),
)
def seed_in_getitem(is_faulty: bool) -> Program:
    # twin: train loss 0.5244 to 0.0453, val {'loss': 0.044}
    # faulty: train loss 0.5109 to 0.0006, says {'loss': 0.0954}
    # its model on the twin's validation: {'loss': 0.0954}
    torch.manual_seed(0)
    time = torch.arange(32) / 32
    turn = 1 + 2 * torch.rand(500, 1)
    clean = torch.sin(2 * math.pi * (turn * time + torch.rand(500, 1)))
    noisy = clean + 0.5 * torch.randn_like(clean)
    train, val = clean[:380], (noisy[380:], clean[380:])
    task = Task(dense(32, 64, 32), nn.MSELoss(), Noisy(train, is_faulty), val)
    return Program(task, {"epochs": 25, "lr": 3e-3})
