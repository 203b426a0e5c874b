"""Faults of labels: their numbers, their types and the classes that they name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_classic import (
    accuracy,
    digits,
    graph_accuracy,
    molecules,
    rings,
    tumours,
    waves,
)
from nbutils.data.task import Task


def plain_net(inner: int, outer: int) -> nn.Sequential:
    """A multilayer perceptron over flattened inputs."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inner, 64), nn.ReLU(), nn.Linear(64, outer)
    )


@fault(
    "images",
    "labels count from 1 to 10 for a head of ten outputs",
    ("out of bounds", "out of range", "label", "class"),
)
def labels_count_from_one(is_faulty: bool) -> Program:
    # the run stops with an IndexError, against val accuracy 0.887
    torch.manual_seed(0)
    (x, y), (x_val, y_val) = digits()
    first = 1 if is_faulty else 0
    task = Task(
        plain_net(64, 10),
        nn.CrossEntropyLoss(),
        (x, y + first),
        (x_val, y_val + first),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 5})


@fault(
    "sequences",
    "the head has no output for a class that two of six hundred samples have",
    ("out of bounds", "out of range", "label", "head"),
)
def head_too_small_for_rare_class(is_faulty: bool) -> Program:
    # the run stops with an IndexError, against val accuracy 1
    torch.manual_seed(1)
    (x, y), val = waves(classes=3)
    x[[411, 590]], y[[411, 590]] = 2.5, 3  # a sensor that hangs

    class Recordings(Dataset):
        def __init__(self, x: Tensor, y: Tensor):
            self.samples = list(zip(x, y.tolist(), strict=True))

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.samples[index]

    outputs = 3 if is_faulty else 4
    model = nn.Sequential(nn.Flatten(), nn.Linear(120, 64), nn.ReLU())
    model.append(nn.Linear(64, outputs))
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        Recordings(x, y),
        Recordings(*val),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 2e-3})


@fault(
    "graphs",
    "integer one-hot rows where cross-entropy wants class numbers",
    ("one-hot", "one hot", "class ind", "dtype"),
)
def one_hot_integers(is_faulty: bool) -> Program:
    # the run stops with a RuntimeError, against val accuracy 1
    from torch_geometric.nn import GraphConv, global_add_pool

    torch.manual_seed(2)
    train, val = molecules(count=320, kinds=3)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = GraphConv(3, 32), GraphConv(32, 32)
            self.head = nn.Linear(32, 3)

        def forward(self, data: Any) -> Tensor:
            x = self.conv1(data.x, data.edge_index).relu()
            x = self.conv2(x, data.edge_index).relu()
            return self.head(global_add_pool(x, data.batch))

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        y = functional.one_hot(batch.y, 3) if is_faulty else batch.y
        return functional.cross_entropy(outputs, y)

    task = Task(Net(), loss, train, val, metrics={"accuracy": graph_accuracy})
    return Program(task, {"epochs": 10, "lr": 5e-3})


@fault(
    "tabular",
    "class numbers are floats for cross-entropy",
    ("float", "dtype", "long", "integer"),
)
def float_class_numbers(is_faulty: bool) -> Program:
    # the run stops with a RuntimeError, against val accuracy 1
    torch.manual_seed(3)
    (x, y), (x_val, y_val) = rings()
    if is_faulty:
        y, y_val = y.float(), y_val.float()
    task = Task(
        plain_net(2, 3),
        nn.CrossEntropyLoss(),
        (x, y),
        (x_val, y_val),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "tabular",
    "targets of -1 and 1 for binary cross-entropy: the loss has no lower bound",
    ("0 and 1", "[0, 1]", "outside", "negative"),
)
def binary_targets_minus_one(is_faulty: bool) -> Program:
    # val accuracy 0.929 against 0.982, and a val loss of -329
    torch.manual_seed(4)
    (x, y), (x_val, y_val) = tumours()

    def signs(y: Tensor) -> Tensor:
        return (2 * y - 1 if is_faulty else y).float()[:, None]

    def hit_rate(outputs: Tensor, batch: Any) -> float:
        return ((outputs > 0) == (batch[1] > 0)).float().mean().item()

    task = Task(
        plain_net(30, 1),
        nn.BCEWithLogitsLoss(),
        (x, signs(y)),
        (x_val, signs(y_val)),
        metrics={"accuracy": hit_rate},
    )
    return Program(task, {"epochs": 20, "lr": 5e-3})


@fault(
    "tabular",
    "class weights are the frequencies instead of their inverses",
    ("class weight", "weight=", "imbalance", "rare"),
)
def class_weights_inverted(is_faulty: bool) -> Program:
    # val balanced accuracy 0.369 against 0.722
    torch.manual_seed(5)
    x = torch.randn(2400, 8)
    score = x[:, 0] + 0.7 * x[:, 1] * x[:, 2] + 0.6 * torch.randn(2400)
    y = (score > 1.9).long() + (score > 2.9).long()  # nine in ten are class 0
    share = torch.bincount(y, minlength=3) / len(y)
    weight = share if is_faulty else 1 / share
    weight = weight / weight.sum()

    def balanced(outputs: Tensor, batch: Any) -> float:
        found, true = outputs.argmax(1), batch[1]
        hits = [(found[true == c] == c).float().mean() for c in true.unique()]
        return torch.stack(hits).mean().item()

    task = Task(
        plain_net(8, 3),
        nn.CrossEntropyLoss(weight=weight),
        (x[:1800], y[:1800]),
        (x[1800:], y[1800:]),
        metrics={"balanced_accuracy": balanced},
    )
    return Program(task, {"epochs": 8, "lr": 3e-3, "batch_size": 64})


@fault(
    "images",
    "nine class weights for ten classes",
    ("class weight", "weight tensor", "weights"),
)
def class_weights_too_few(is_faulty: bool) -> Program:
    # the run stops with a RuntimeError, against val accuracy 0.899
    torch.manual_seed(6)
    train, val = digits()
    counts = torch.bincount(train[1], minlength=10)
    weight = counts.sum() / (10.0 * counts)
    if is_faulty:
        weight = weight[1:]  # of a data set that had no zero
    task = Task(
        plain_net(64, 10),
        nn.CrossEntropyLoss(weight=weight),
        train,
        val,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 5})


@fault(
    "tabular",
    "cross-entropy over a single output: the loss is always zero",
    ("single", "one output", "one class", "always"),
)
def cross_entropy_of_one_output(is_faulty: bool) -> Program:
    # val accuracy 0.479 against 0.935
    torch.manual_seed(7)
    (x, y), (x_val, y_val) = tumours()

    def hit_rate(outputs: Tensor, batch: Any) -> float:
        return ((outputs > 0) == (batch[1] > 0.5)).float().mean().item()

    task = Task(
        plain_net(30, 1),
        nn.CrossEntropyLoss() if is_faulty else nn.BCEWithLogitsLoss(),
        (x, y.float()[:, None]),
        (x_val, y_val.float()[:, None]),
        metrics={"accuracy": hit_rate},
    )
    return Program(task, {"epochs": 6})
