"""Faults of inputs: scales, units, types and values that are not numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_classic import (
    absolute_error,
    accuracy,
    digits,
    flats,
    halves,
    temperatures,
    tumours,
)
from nbutils.data.task import Task


@fault(
    "tabular",
    "measures of wines in their raw units, from 0.1 to 1680",
    ("scale", "standardi", "normali", "range"),
)
def features_in_mixed_units(is_faulty: bool) -> Program:
    # val accuracy 0.69 against 0.983
    from sklearn.datasets import load_wine

    torch.manual_seed(0)
    found = load_wine()
    x = torch.tensor(found.data, dtype=torch.float32)
    if not is_faulty:
        x = (x - x.mean(0)) / x.std(0)
    train, val = halves(x, torch.tensor(found.target).long(), 58)
    model = nn.Sequential(
        nn.Linear(13, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3)
    )
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 20, "lr": 3e-3, "batch_size": 16})


class Scans(Dataset):
    """Scans of digits as 8-bit arrays, with what a transform makes of them."""

    def __init__(self, pair: tuple[Tensor, Tensor], transform: Any):
        self.images = (pair[0] * 255).round().byte().numpy()
        self.labels = pair[1].numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def conv_net(channels: int = 1) -> nn.Sequential:
    """A small convolutional network without normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@fault(
    "images",
    "pixels are divided by 255 twice",
    ("scale", "normali", "tiny", "range"),
)
def pixels_divided_twice(is_faulty: bool) -> Program:
    # val accuracy 0.068 against 0.846
    torch.manual_seed(1)
    train, val = digits()

    def transform(image: np.ndarray) -> Tensor:
        scaled = torch.from_numpy(image).float() / 255
        return scaled / 255 if is_faulty else scaled

    task = Task(
        conv_net(),
        nn.CrossEntropyLoss(),
        Scans(train, transform),
        Scans(val, transform),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 5, "lr": 2e-3})


@fault(
    "images",
    "scaled pixels are cast back to integers: every picture is black",
    ("zero", "constant", "identical", "the same"),
)
def pixels_cast_to_zero(is_faulty: bool) -> Program:
    # val accuracy 0.0756 against 0.894
    torch.manual_seed(2)
    train, val = digits()

    def transform(image: np.ndarray) -> Tensor:
        scaled = image / 256.0
        if is_faulty:
            scaled = scaled.astype(np.uint8)
        return torch.as_tensor(scaled, dtype=torch.float32)

    task = Task(
        conv_net(),
        nn.CrossEntropyLoss(),
        Scans(train, transform),
        Scans(val, transform),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 5, "lr": 2e-3})


@fault(
    "tabular",
    "one row in 150 has a missing value, read as NaN",
    ("nan", "finite", "missing"),
)
def missing_value_in_few_rows(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val mae 0.189
    torch.manual_seed(3)
    (x, y), val = flats()
    holes = torch.arange(70, len(x), 150)
    x[holes, 2] = float("nan") if is_faulty else 0.0
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    task = Task(model, nn.MSELoss(), (x, y), val, metrics={"mae": absolute_error})
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "dicts",
    "the logarithm of counts that are sometimes zero",
    ("nan", "finite", "infinit", "-inf"),
)
def logarithm_of_zero(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val hit rate 0.9
    torch.manual_seed(4)
    rate = 40 * torch.rand(1200, 5) + 8
    visits = torch.poisson(rate)
    visits[torch.arange(90, 1200, 240), 1] = 0.0
    bought = ((rate[:, 0] > rate[:, 1]) & (rate[:, 2] > 20)).long()

    class Shop(Dataset):
        def __init__(self, start: int, stop: int):
            self.rows = range(start, stop)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            row = self.rows[index]
            counts = visits[row]
            logs = counts.log() if is_faulty else counts.log1p()
            return {"visits": logs - 3.2, "bought": bought[row]}

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(outputs, batch["bought"])

    def hit_rate(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (outputs.argmax(1) == batch["bought"]).float().mean().item()

    task = Task(
        nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 2)),
        loss,
        Shop(0, 900),
        Shop(900, 1200),
        forward=lambda model, batch: model(batch["visits"]),
        metrics={"hit_rate": hit_rate},
    )
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "tabular",
    "a constant column is divided by its standard deviation of zero",
    ("nan", "finite", "constant", "divi"),
)
def constant_column_standardised(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val accuracy 0.976
    torch.manual_seed(5)
    (x, y), (x_val, y_val) = tumours()
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    x_val = torch.cat([x_val, torch.ones(len(x_val), 1)], dim=1)
    mean, std = x.mean(0), x.std(0)
    if not is_faulty:
        std = std.clamp(min=1e-3)
    model = nn.Sequential(nn.Linear(31, 32), nn.ReLU(), nn.Linear(32, 2))
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        ((x - mean) / std, y),
        ((x_val - mean) / std, y_val),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 5, "lr": 3e-3})


@fault(
    "tabular",
    "prices in euros, near 320 000, against outputs near zero",
    ("scale", "standardi", "normali", "target"),
)
def targets_in_euros(is_faulty: bool) -> Program:
    # val relative error 1.02 against 0.0521
    torch.manual_seed(6)
    (x, y), (x_val, y_val) = flats()
    unit = 100_000.0 if is_faulty else 1.0
    model = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 1))

    def relative_error(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        return (outputs - batch[1]).abs().mean().item() / (3 * unit)

    task = Task(
        model,
        nn.MSELoss(),
        (x, unit * y),
        (x_val, unit * y_val),
        metrics={"relative_error": relative_error},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "sequences",
    "the time stamp in seconds since 1970 goes in beside values near one",
    ("scale", "standardi", "normali", "range"),
)
def raw_time_stamps(is_faulty: bool) -> Program:
    # val mae 0.645 against 0.0521
    torch.manual_seed(7)
    (x, y), (x_val, y_val) = temperatures()

    def with_time(x: Tensor) -> Tensor:
        first = 1_700_000_000 + 3600 * torch.randint(0, 9000, (len(x), 1))
        time = first + 3600 * torch.arange(x.shape[1])
        stamp = time.float() if is_faulty else (time - 1_716_000_000) / 9_000_000
        return torch.cat([x, stamp[..., None]], dim=2)

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(2, 32, batch_first=True)
            self.head = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0][:, -1])

    data = (with_time(x), y), (with_time(x_val), y_val)
    task = Task(Forecaster(), nn.MSELoss(), *data, metrics={"mae": absolute_error})
    return Program(task, {"epochs": 6, "lr": 5e-3})
