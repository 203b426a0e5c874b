"""Faults of optimizers and schedules."""

from __future__ import annotations

import copy
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


def digit_net() -> nn.Sequential:
    """A small convolutional network for the scans."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


class TinyTransformer(nn.Module):
    """One encoder layer over token and position embeddings, mean-pooled."""

    def __init__(self, words: int = 12):
        super().__init__()
        self.tokens = nn.Embedding(40, 32)
        self.positions = nn.Parameter(0.02 * torch.randn(words, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.conv = nn.Conv1d(32, 32, 2, padding=1)
        self.head = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        x = functional.relu(self.conv(x.transpose(1, 2)))[..., :-1].transpose(1, 2)
        return self.head(self.layer(x + self.positions).mean(1))


@fault(
    "text",
    "learning rate of 0.5 for AdamW on a transformer",
    ("learning rate", " lr", "step size"),
)
def learning_rate_far_too_high(is_faulty: bool) -> Program:
    # val accuracy 0.495 against 0.956
    torch.manual_seed(0)
    train, val = reviews()
    task = Task(
        TinyTransformer(),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 0.5 if is_faulty else 3e-3})


@fault(
    "images",
    "learning rate of 1e-8: nothing moves",
    ("learning rate", " lr", "step size"),
)
def learning_rate_far_too_low(is_faulty: bool) -> Program:
    # val accuracy 0.136 against 0.874
    torch.manual_seed(1)
    train, val = digits()
    task = Task(
        digit_net(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 5, "lr": 1e-8 if is_faulty else 1e-3})


@fault(
    "tabular",
    "SGD with a learning rate of 5 on a regression, without clipping",
    ("learning rate", " lr", "step size", "diverg"),
)
def sgd_diverges(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val mae 0.242
    torch.manual_seed(2)
    train, val = flats()
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=5.0 if is_faulty else 0.02)

    task = Task(
        model,
        nn.MSELoss(),
        train,
        val,
        make_optimizer=make_optimizer,
        metrics={"mae": absolute_error},
    )
    return Program(task, {"epochs": 6, "clip_norm": None})


@fault(
    "sequences",
    "SGD with a weight decay of 0.5, which pulls all weights to zero",
    ("decay",),
)
def weight_decay_absurd(is_faulty: bool) -> Program:
    # val accuracy 0.27 against 1
    torch.manual_seed(3)
    train, val = waves()

    class ConvNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.Sequential(
                nn.Conv1d(3, 24, 7, padding=3),
                nn.ReLU(),
                nn.Conv1d(24, 24, 7, padding=3),
                nn.ReLU(),
            )
            self.head = nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.convs(x.transpose(1, 2)).mean(2))

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(),
            lr=0.05,
            momentum=0.9,
            weight_decay=0.5 if is_faulty else 5e-4,
        )

    task = Task(
        ConvNet(),
        nn.CrossEntropyLoss(),
        train,
        val,
        make_optimizer=make_optimizer,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 10})


@fault("images", "SGD with a momentum of 0.9999", ("momentum",))
def momentum_absurd(is_faulty: bool) -> Program:
    # val accuracy 0.771 against 0.932
    torch.manual_seed(4)
    train, val = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    settings = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9999 if is_faulty else 0.9}
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 6, **settings})


@fault(
    "graphs",
    "the optimizer was given the head's parameters only",
    ("optimizer", "optimiser", "not updated", "not trained"),
)
def optimizer_over_head_only(is_faulty: bool) -> Program:
    # val accuracy 0.65 against 0.79
    from torch_geometric.nn import GINConv, global_add_pool

    torch.manual_seed(5)
    train, val = molecules(kinds=5)

    class GIN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin_in = nn.Linear(5, 6)
            self.convs = nn.ModuleList(
                GINConv(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)))
                for _ in range(3)
            )
            self.head = nn.Linear(6, 5)

        def forward(self, data: Any) -> Tensor:
            x = self.lin_in(data.x)
            for conv in self.convs:
                x = x + conv(x, data.edge_index).relu()
            return self.head(global_add_pool(x, data.batch))

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(outputs, batch.y)

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        part = model.get_submodule("head") if is_faulty else model
        return torch.optim.Adam(part.parameters(), lr=5e-3)

    task = Task(
        GIN(),
        loss,
        train,
        val,
        make_optimizer=make_optimizer,
        metrics={"accuracy": graph_accuracy},
    )
    return Program(task, {"epochs": 25})


@fault(
    "tabular",
    "the optimizer holds the parameters of a copy of the model",
    ("copy", "not the model", "another model", "optimizer"),
)
def optimizer_of_a_copy(is_faulty: bool) -> Program:
    # no step is taken, the run stops; healthy: val accuracy 0.982
    torch.manual_seed(6)
    train, val = tumours()
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
    start = copy.deepcopy(model)  # to compare with later

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        net = start if is_faulty else model
        return torch.optim.AdamW(net.parameters(), lr=3e-3)

    task = Task(
        model,
        nn.CrossEntropyLoss(),
        train,
        val,
        make_optimizer=make_optimizer,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 5})


@fault(
    "images",
    "two parameter groups, the one of the untrained backbone with lr 0",
    ("learning rate", " lr", "not updated", "frozen"),
)
def group_with_lr_zero(is_faulty: bool) -> Program:
    # val accuracy 0.171 against 0.932
    torch.manual_seed(7)
    train, val = digits()
    blocks = [nn.Conv2d(1, 5, 3, padding=1), nn.GELU()]
    for _ in range(3):
        blocks += [nn.Conv2d(5, 5, 3, padding=1), nn.GELU()]
    model = nn.ModuleDict(
        {
            "backbone": nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(2), nn.Flatten()),
            "head": nn.Linear(20, 10),
        }
    )

    def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        backbone, head = model.get_submodule("backbone"), model.get_submodule("head")
        return head(backbone(batch[0]))

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        backbone = model.get_submodule("backbone").parameters()
        return torch.optim.AdamW(
            [
                {"params": backbone, "lr": 0.0 if is_faulty else 5e-3},
                {"params": model.get_submodule("head").parameters(), "lr": 5e-3},
            ]
        )

    task = Task(
        model,
        nn.CrossEntropyLoss(),
        train,
        val,
        forward=forward,
        make_optimizer=make_optimizer,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 10})
