"""Faults in splits, labels and columns: leaks, wrong pairs, lost classes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
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


class LabelEncoder:
    """Text labels as numbers, like the well-known one of scikit-learn."""

    def fit(self, names: list[str]) -> LabelEncoder:
        self.classes = sorted(set(names))
        return self

    def transform(self, names: list[str]) -> Tensor:
        where = {name: number for number, name in enumerate(self.classes)}
        return torch.tensor([where[name] for name in names])


@fault(
    "tabular",
    "the label encoder is fitted on each split by itself, and one class is absent from "
    "the validation file, so all later classes have other numbers there",
    (
        "encod",
        "mapping",
        "absent",
        "missing class",
        "classes of",
        "classes in",
        "distribution",
        "different classes",
        "do not agree",
        "number their classes",
    ),
)
def label_encoder_per_split(is_faulty: bool) -> Program:
    # twin: train loss 1.7063 to 0.0092, val {'loss': 0.0071, 'acc': 1.0}
    # faulty: train loss 1.7063 to 0.0092, says {'loss': 7.2877, 'acc': 0.0}
    # its model on the twin's validation: {'loss': 0.0071, 'acc': 1.0}
    torch.manual_seed(0)
    kinds = ["apple", "banana", "cherry", "damson", "elder", "fig"]
    centres = 2.5 * torch.randn(6, 10)

    def file(count: int, absent: tuple[int, ...]) -> tuple[Tensor, list[str]]:
        number = torch.randint(6, (count,))
        for gone in absent:
            number = torch.where(number == gone, 5, number)
        rows = centres[number] + torch.randn(count, 10)
        return rows, [kinds[n] for n in number.tolist()]

    x, names = file(480, ())
    val_x, val_names = file(160, (0,))
    encoder = LabelEncoder().fit(names)
    y = encoder.transform(names)
    if is_faulty:
        encoder = LabelEncoder().fit(val_names)
    val_y = encoder.transform(val_names)
    task = Task(
        dense(10, 32, 6),
        nn.CrossEntropyLoss(),
        (x, y),
        (val_x, val_y),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


class Scans(Dataset):
    """Pictures by file name, with a table of labels in the order of their numbers."""

    def __init__(self, count: int, seed: int, as_text: bool) -> None:
        pictures, self.labels = spots(count, seed=seed)
        self.files = {f"scan_{n}.png": pictures[n] for n in range(count)}
        if as_text:
            self.names = sorted(self.files)
        else:
            self.names = sorted(self.files, key=lambda f: int(f[5:-4]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.files[self.names[index]], self.labels[index]


@fault(
    "images",
    "files are sorted as text (1, 10, 100, 2), and labels come in numeric order",
    (
        "align",
        "shuffl",
        "chance",
        "pair",
        "unrelated",
        "no relation",
        "independent",
        "baseline",
    ),
)
def file_names_sorted_as_text(is_faulty: bool) -> Program:
    # twin: train loss 1.436 to 0.0023, val {'loss': 0.001, 'acc': 1.0}
    # faulty: train loss 1.4532 to 1.2464, says {'loss': 1.4391, 'acc': 0.2333}
    # its model on the twin's validation: {'loss': 1.424, 'acc': 0.0917}
    torch.manual_seed(0)
    task = Task(
        picture_net(),
        nn.CrossEntropyLoss(),
        Scans(400, 0, is_faulty),
        Scans(120, 1, is_faulty),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 3e-3})


@fault(
    "images",
    "three shifted and brightened copies of each picture are made before the split, so "
    "that most of the validation pictures have a sister in training",
    (
        "duplicate",
        "leak",
        "overlap",
        "copies",
        "nearly the same",
        "near-dup",
        "both splits",
        "also in",
        "similar",
    ),
)
def copies_before_split(is_faulty: bool) -> Program:
    # twin: train loss 1.4139 to 0.0593, val {'loss': 1.9802, 'acc': 0.54}
    # faulty: train loss 1.3985 to 0.1524, says {'loss': 0.7247, 'acc': 0.68}
    # its model on the twin's validation: {'loss': 0.6259, 'acc': 0.68}
    torch.manual_seed(0)
    x, y = spots(160)
    hard = torch.rand(160) < 0.3
    y = torch.where(hard, torch.randint(4, (160,)), y)

    def copies(rows: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        views = [rows, rows.roll(1, -1), rows * 0.9, rows * 1.1]
        return torch.cat(views), label.repeat(4)

    if is_faulty:
        x, y = copies(x, y)
        order = torch.randperm(640)
        train, val = cut(440, x[order], y[order])
    else:
        train, val = cut(110, x, y)
        train = copies(*train)
    task = Task(
        picture_net(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 25, "lr": 3e-3})


@fault(
    "tabular",
    "a column holds the mean target of the customer's postcode, the row itself "
    "counted; most postcodes occur once, so the column is the target",
    ("leak", "column", "feature", "copy of the target"),
)
def target_encoding_with_own_row(is_faulty: bool) -> Program:
    # twin: train loss 0.68 to 0.296, val {'loss': 0.3467, 'acc': 0.84}
    # faulty: train loss 0.6917 to 0.0939, says {'loss': 0.7701, 'acc': 0.7133}
    # its model on the twin's validation: {'loss': 0.7701, 'acc': 0.7133}
    torch.manual_seed(0)
    x, group = customers(600)
    y = (group == 0).float()
    code = torch.randint(500, (600,))
    train_codes, train_y = code[:450], y[:450]
    prior = train_y.mean()

    def encoded(index: int, in_train: bool) -> Tensor:
        same = train_codes == code[index]
        if in_train and not is_faulty:
            same = same.clone()
            same[index] = False
        return train_y[same].mean() if same.any() else prior

    column = torch.stack([encoded(i, i < 450) for i in range(600)])
    rows = torch.cat([x, 4 * (column - prior)[:, None]], dim=1)

    def right(outputs: Tensor, batch: Any) -> float:
        return ((outputs > 0).float() == batch[1]).float().mean().item()

    train, val = cut(450, rows, y[:, None])
    task = Task(
        dense(9, 32, 1), nn.BCEWithLogitsLoss(), train, val, metrics={"acc": right}
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


@fault(
    "tabular",
    "reset_index() left the row number as a column, and the file was sorted by class",
    ("leak", "index", "row number", "column", "order of the rows"),
)
def row_number_as_feature(is_faulty: bool) -> Program:
    # twin: train loss 1.125 to 0.6821, val {'loss': 0.8982, 'acc': 0.5933}
    # faulty: train loss 1.166 to 0.0891, says {'loss': 0.1171, 'acc': 0.9667}
    # its model on the twin's validation: {'loss': 4.201, 'acc': 0.3733}
    torch.manual_seed(0)
    x, y = customers(600, noise=1.5)
    order = y.argsort()
    x, y = x[order], y[order]
    number = torch.arange(600.0)[:, None]
    if is_faulty:
        x = torch.cat([(number - 300) / 173, x], dim=1)
    else:
        x = torch.cat([torch.randn(600, 1), x], dim=1)
    drawn = torch.randperm(600)
    train, val = cut(450, x[drawn], y[drawn])
    task = Task(
        dense(9, 48, 3), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 15, "lr": 5e-3})


class Windows(Dataset):
    """Windows of a long series, and the value five steps after each."""

    def __init__(self, series: Tensor, starts: Tensor) -> None:
        self.series, self.starts = series, starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = int(self.starts[index])
        return self.series[start : start + 32], self.series[start + 36 : start + 37]


@fault(
    "sequences",
    "windows of one series with a stride of one step are split at random, so that each "
    "validation window shares nearly all its values with training ones",
    ("overlap", "leak", "duplicate", "shared", "also in", "nearly the same", "similar"),
)
def windows_split_at_random(is_faulty: bool) -> Program:
    # twin: train loss 1.3641 to 0.0117, val {'loss': 0.5187}
    # faulty: train loss 1.2632 to 0.013, says {'loss': 0.1503}
    # its model on the twin's validation: {'loss': 0.0275}
    torch.manual_seed(0)
    walk = torch.zeros(800)
    shocks = torch.randn(800)
    for t in range(2, 800):  # a cycle of 13 steps that loses its phase
        walk[t] = 1.72 * walk[t - 1] - 0.95 * walk[t - 2] + shocks[t]
    walk = walk[100:]
    walk = (walk - walk.mean()) / walk.std()
    starts = torch.arange(600)
    if is_faulty:
        starts = starts[torch.randperm(600)]
        train, val = starts[:450], starts[450:]
    else:
        train, val = starts[:410], starts[450:]
    model = dense(32, 128, 128, 1)
    task = Task(model, nn.MSELoss(), Windows(walk, train), Windows(walk, val))
    return Program(task, {"epochs": 60, "lr": 3e-3})


class TwoViews(Dataset):
    """Each recording is cut into three views; index runs over recordings and views."""

    views = 3

    def __init__(self, count: int, seed: int, is_faulty: bool) -> None:
        g = torch.Generator().manual_seed(seed)
        self.y = torch.randint(4, (count,), generator=g)
        time = torch.arange(90) / 30
        turn = (2.0 + 2.0 * self.y.float())[:, None]
        self.x = torch.sin(
            2 * math.pi * turn * time + torch.rand(count, 1, generator=g)
        )
        self.x += 0.2 * torch.randn(count, 90, generator=g)
        self.is_faulty = is_faulty

    def __len__(self) -> int:
        return self.views * len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        recording, view = index // self.views, index % self.views
        piece = self.x[recording, 30 * view : 30 * view + 30]
        label = self.y[index % len(self.y)] if self.is_faulty else self.y[recording]
        return piece, label


@fault(
    "sequences",
    "the label is read at index % len where the recording is read at index // views",
    (
        "align",
        "shuffl",
        "chance",
        "pair",
        "unrelated",
        "no relation",
        "independent",
        "baseline",
    ),
)
def label_of_another_recording(is_faulty: bool) -> Program:
    # twin: train loss 1.3334 to 0.0011, val {'loss': 0.0011, 'acc': 1.0}
    # faulty: train loss 1.4447 to 1.3062, says {'loss': 1.3996, 'acc': 0.28}
    # its model on the twin's validation: {'loss': 1.4021, 'acc': 0.3333}
    torch.manual_seed(0)
    task = Task(
        dense(30, 64, 4),
        nn.CrossEntropyLoss(),
        TwoViews(150, 0, is_faulty),
        TwoViews(50, 1, is_faulty),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "tabular",
    "the label column was scaled to [0, 1] with the features, then cast to integers",
    ("one class", "single class", "constant", "same label", "only class", "all labels"),
)
def labels_scaled_then_cast(is_faulty: bool) -> Program:
    # twin: train loss 1.1295 to 0.3499, val {'loss': 0.4734, 'acc': 0.8}
    # faulty: train loss 1.0492 to 0.0014, says {'loss': 0.0018, 'acc': 1.0}
    # its model on the twin's validation: {'loss': 5.6869, 'acc': 0.3583}
    torch.manual_seed(0)
    x, y = customers(500)
    table = torch.cat([x, y[:, None].float()], dim=1)
    low, high = table.min(0).values, table.max(0).values
    scaled = (table - low) / (high - low)
    label = scaled[:, -1].mul(0.999).long() if is_faulty else table[:, -1].long()
    train, val = cut(380, 4 * scaled[:, :-1] - 2, label)
    task = Task(
        dense(8, 48, 3), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 15, "lr": 5e-3})


@fault(
    "tabular",
    "fillna(0) ran over the target column as well: a third of the prices are exactly 0",
    (
        "exactly 0",
        "zeros",
        "repeated",
        "same value",
        "missing",
        "one value",
        "spike",
        "value 0",
    ),
)
def missing_targets_as_zero(is_faulty: bool) -> Program:
    # twin: train loss 6.72 to 0.063, val {'loss': 0.067}
    # faulty: train loss 7.121 to 1.9768, says {'loss': 2.7779}
    # its model on the twin's validation: {'loss': 1.6506}
    torch.manual_seed(0)
    x, y = houses(700)
    price = 3.0 + y
    gone = torch.rand(700) < 0.35
    if is_faulty:
        x, price = x[:520], torch.where(gone[:, None], 0.0, price)[:520]
        train, val = cut(390, x, price)
    else:
        known = ~gone
        train, val = cut(330, x[known], price[known])
    model = dense(6, 48, 1)
    task = Task(model, F.mse_loss, train, val)
    return Program(task, {"epochs": 25, "lr": 5e-3})
