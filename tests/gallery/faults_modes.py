"""Faults of layers that act differently in training: dropout and normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import (
    absolute_error,
    accuracy,
    digits,
    flats,
    graph_accuracy,
    molecules,
    reviews,
    tumours,
    waves,
)
from nbutils.data.task import Task


@fault("tabular", "dropout with p=1 after the only hidden layer", ("dropout",))
def dropout_of_everything(is_faulty: bool) -> Program:
    # val accuracy 0.586 against 0.941
    torch.manual_seed(0)
    train, val = tumours()
    model = nn.Sequential(
        nn.Linear(30, 64),
        nn.ReLU(),
        nn.Dropout(1.0 if is_faulty else 0.1),
        nn.Linear(64, 2),
    )
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 6})


@fault("text", "dropout of 0.99, where a keep rate was meant", ("dropout",))
def keep_rate_given_as_dropout(is_faulty: bool) -> Program:
    # val accuracy 0.451 against 0.895
    torch.manual_seed(1)
    train, val = reviews()

    class BagOfPairs(nn.Module):
        def __init__(self, dropout: float) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 32)
            self.conv = nn.Conv1d(32, 48, 2)
            self.drop = nn.Dropout(dropout)
            self.fc = nn.Linear(48, 2)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.drop(self.embedding(ids)).transpose(1, 2)
            x = functional.relu(self.conv(x)).mean(2)
            return self.fc(self.drop(x))

    model = BagOfPairs(0.99 if is_faulty else 0.05)
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "images",
    "functional.dropout without training=self.training also drops in evaluation",
    ("dropout", "eval", "determin", "random"),
)
def functional_dropout_always_on(is_faulty: bool) -> Program:
    # val accuracy 0.746 against 0.922
    torch.manual_seed(2)
    train, val = digits()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 16, 3)
            self.conv2 = nn.Conv2d(16, 32, 3)
            self.fc1 = nn.Linear(512, 64)
            self.fc2 = nn.Linear(64, 10)

        def drop(self, x: Tensor) -> Tensor:
            if is_faulty:
                return functional.dropout(x, 0.6)
            return functional.dropout(x, 0.6, training=self.training)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.conv1(x))
            x = self.drop(functional.relu(self.conv2(x)).flatten(1))
            return self.fc2(self.drop(functional.relu(self.fc1(x))))

    task = Task(
        Net(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 4})


@fault(
    "tabular",
    "BatchNorm is held in eval mode, so it never normalises raw features",
    ("batchnorm", "batch norm", "running", "eval"),
)
def batchnorm_held_in_eval(is_faulty: bool) -> Program:
    # val mae 18.2 against 0.175
    torch.manual_seed(3)
    (x, y), (x_val, y_val) = flats()
    scale = torch.tensor([400.0, 30.0, 9.0, 1e3, 2e3, 5e2])
    shift = torch.tensor([900.0, 60.0, 12.0, 5e3, 9e3, 1e3])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(6)
            self.fc1 = nn.Linear(6, 48)
            self.fc2 = nn.Linear(48, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(functional.relu(self.fc1(self.bn(x))))

    model = Net()
    if is_faulty:
        model.bn.eval()
    data = (x * scale + shift, y), (x_val * scale + shift, y_val)
    task = Task(model, nn.MSELoss(), *data, metrics={"mae": absolute_error})
    return Program(task, {"epochs": 12, "lr": 5e-3})


@fault(
    "images",
    "BatchNorm with momentum=0.0005: its running statistics never arrive",
    ("momentum", "running", "batchnorm"),
)
def batchnorm_momentum_too_small(is_faulty: bool) -> Program:
    # val accuracy 0.836 against 0.972
    torch.manual_seed(4)
    (x, y), (x_val, y_val) = digits()
    x, x_val = 16 * x, 16 * x_val

    def block(inner: int, outer: int) -> nn.Sequential:
        momentum = 0.0005 if is_faulty else 0.1
        return nn.Sequential(
            nn.Conv2d(inner, outer, 3, padding=1),
            nn.BatchNorm2d(outer, momentum=momentum),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    model = nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Linear(128, 10))
    data = (x, y), (x_val, y_val)
    task = Task(model, nn.CrossEntropyLoss(), *data, metrics={"accuracy": accuracy})
    return Program(task, {"epochs": 4})


@fault(
    "sequences",
    "BatchNorm without running statistics, evaluated on batches sorted by class",
    ("running", "batchnorm", "batch norm", "other samples"),
)
def batchnorm_without_running_statistics(is_faulty: bool) -> Program:
    # val accuracy 0.457 against 1
    torch.manual_seed(5)
    train, (x_val, y_val) = waves(classes=4)
    order = y_val.argsort()  # as in a folder for each class

    class ConvNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 32, 9, padding=4)
            self.norm = nn.BatchNorm1d(32, track_running_stats=not is_faulty)
            self.fc = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.conv(x.transpose(1, 2))).mean(2)
            return self.fc(self.norm(x))

    task = Task(
        ConvNet(),
        nn.CrossEntropyLoss(),
        train,
        (x_val[order], y_val[order]),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "tabular",
    "97 samples in batches of 32: BatchNorm meets a last batch of one sample",
    ("drop_last", "batch of", "1 sample", "more than 1 value"),
)
def batchnorm_of_one_sample(is_faulty: bool) -> Program:
    # the run stops with a ValueError, against val accuracy 0.959
    torch.manual_seed(6)
    (x, y), val = tumours()
    model = nn.Sequential(
        nn.Linear(30, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)
    )
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        (x[:97], y[:97]),
        val,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 10, "lr": 3e-3, "drop_last": not is_faulty})


@fault(
    "graphs",
    "features are normalised over all nodes of the batch, not those of the graph",
    ("other samples", "interact", "other graphs", "mix"),
)
def graph_pooled_over_batch(is_faulty: bool) -> Program:
    # val accuracy 0.22 against 1
    from torch_geometric.nn import GraphConv, global_add_pool

    torch.manual_seed(7)
    train, val = molecules(kinds=4)

    class GNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = GraphConv(4, 32)
            self.conv2 = GraphConv(32, 32)
            self.head = nn.Linear(32, 4)

        def forward(self, data: Any) -> Tensor:
            x = functional.relu(self.conv1(data.x, data.edge_index))
            x = functional.relu(self.conv2(x, data.edge_index))
            if is_faulty:
                return self.head(x.sum(0, keepdim=True).expand(data.num_graphs, -1))
            return self.head(global_add_pool(x, data.batch))

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(outputs, batch.y)

    task = Task(GNN(), loss, train, val, metrics={"accuracy": graph_accuracy})
    return Program(task, {"epochs": 15, "lr": 5e-3})
