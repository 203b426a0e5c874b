"""Faults of shapes and types that the first or a later batch stumbles over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset

from gallery.case import Program, fault
from gallery.data_classic import (
    absolute_error,
    accuracy,
    digits,
    flats,
    shapes,
    waves,
)
from nbutils.data.task import Task


@fault(
    "tabular",
    "features come as float64 from numpy, the weights are float32",
    ("float64", "double", "dtype"),
)
def features_in_double(is_faulty: bool) -> Program:
    # the run stops with a RuntimeError, against val mae 0.187
    torch.manual_seed(0)
    dtype = np.float64 if is_faulty else np.float32

    class Rows(IterableDataset):
        def __init__(self, x: Tensor, y: Tensor):
            self.x, self.y = x.numpy().astype(dtype), y.numpy()

        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            yield from zip(self.x, self.y, strict=True)

    train, val = (Rows(*part) for part in flats())
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    task = Task(model, nn.MSELoss(), train, val, metrics={"mae": absolute_error})
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "images",
    "pictures are (H, W, C), a convolution wants (C, H, W)",
    ("channel", "permute", "layout", "shape"),
)
def channels_last_into_convolution(is_faulty: bool) -> Program:
    # the run stops with a RuntimeError, against val pixel accuracy 0.94
    torch.manual_seed(1)

    class Boxes(Dataset):
        def __init__(self, samples: list[dict[str, Tensor]]):
            self.samples = samples

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> tuple[np.ndarray, Tensor]:
            sample = self.samples[index]
            picture = sample["image"].permute(1, 2, 0).numpy()
            if not is_faulty:
                picture = picture.transpose(2, 0, 1).copy()
            return picture, sample["mask"]

    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    )
    train, val = (Boxes(part) for part in shapes(count=300))
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"pixel_accuracy": accuracy},
    )
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "sequences",
    "out[-1] of a batch_first LSTM is the last sample, not the last step",
    ("batch_first", "shape", "batch size", "batch_size"),
)
def last_sample_taken_for_last_step(is_faulty: bool) -> Program:
    # the run stops with a ValueError, against val accuracy 0.92
    torch.manual_seed(2)
    train, val = waves(classes=3)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 32, batch_first=True)
            self.fc = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.lstm(x)
            return self.fc(out[-1] if is_faulty else out[:, -1])

    task = Task(
        Net(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "sequences",
    "the input is viewed as (B, F, T) for a Conv1d: times and features are mixed",
    ("view", "reshape", "transpose", "mix"),
)
def time_and_features_mixed_by_view(is_faulty: bool) -> Program:
    # val step accuracy 0.592 against 0.991
    torch.manual_seed(3)
    drift = 0.4 * torch.randn(900, 40, 3)
    x = drift.cumsum(1) * 0.5 + 0.5 * torch.randn(900, 1, 3)
    alarm = (x[..., 0] + x[..., 1] > x[..., 2]).long()  # for each time step

    class StepTagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv1d(3, 24, 3, padding=1)
            self.conv2 = nn.Conv1d(24, 24, 3, padding=1)
            self.out = nn.Conv1d(24, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape(len(x), 3, 40) if is_faulty else x.transpose(1, 2)
            return self.out(functional.relu(self.conv2(functional.relu(self.conv1(x)))))

    task = Task(
        StepTagger(),
        nn.CrossEntropyLoss(),
        (x[:600], alarm[:600]),
        (x[600:], alarm[600:]),
        metrics={"step_accuracy": accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "images",
    "one picture in 100 is 10 pixels wide where the others are 8",
    ("shape", "size", "stack", "equal"),
)
def one_picture_of_another_size(is_faulty: bool) -> Program:
    # the loader stops; healthy: val accuracy 0.945
    torch.manual_seed(4)
    (x, y), val = digits()

    class Folder(Dataset):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, index: int) -> tuple[Tensor, Any]:
            image = x[index]
            if is_faulty and index % 100 == 57:
                image = functional.pad(image, (1, 1, 1, 1))
            return image, y[index]

    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(288, 10))
    task = Task(
        model, nn.CrossEntropyLoss(), Folder(), val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 5, "lr": 2e-3})
