"""Faults in what a model keeps: outside of its state, in memory, or against saving."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import (
    accuracy,
    blobs,
    figures,
    mlp,
    rows_task,
    sea_level,
    small_cnn,
)
from nbutils.data.task import Task


class Experts(nn.Module):
    """Several small networks behind one layer, and their mean."""

    def __init__(self, is_list: bool) -> None:
        super().__init__()
        self.head = nn.Linear(16, 5)
        nn.init.zeros_(self.head.bias)
        experts = [nn.Sequential(nn.Linear(8, 16), nn.Tanh()) for _ in range(3)]
        for expert in experts:
            nn.init.normal_(expert[0].weight, std=0.002)
        self.experts = experts if is_list else nn.ModuleList(experts)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.stack([e(rows) for e in self.experts]).mean(0))


@fault(
    "tabular",
    "layers are in a Python list, so that they are neither trained nor saved",
    ("modulelist", "registered", "python list", "plain list"),
)
def layers_in_a_list(is_faulty: bool) -> Program:
    # val acc 0.19 against 0.99
    torch.manual_seed(0)
    return Program(rows_task(Experts(is_faulty)), {"epochs": 8, "lr": 3e-3})


class Watched(nn.Module):
    """Keeps what a layer gave, for a picture of it after the training."""

    def __init__(self, keeps_all: bool) -> None:
        super().__init__()
        self.net = small_cnn()
        self.keeps_all = keeps_all
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.net[:3](images)
        self.seen.append(hidden if self.keeps_all else hidden.detach().mean())
        del self.seen[: 0 if self.keeps_all else -1]
        return self.net[3:](hidden)


@fault(
    "images",
    "the model keeps the activations of every call, so that memory grows in each step",
    ("memory", "grow", "kept", "keeps"),
)
def activations_kept(is_faulty: bool) -> Program:
    # 70 MB kept after the run against less than 1
    torch.manual_seed(0)
    task = Task(
        Watched(is_faulty),
        nn.CrossEntropyLoss(),
        figures(600),
        figures(150, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 4})


class Prototypes(nn.Module):
    """Distance to one centre per class, which follow what the model sees."""

    def __init__(self, follows_in_eval: bool) -> None:
        super().__init__()
        self.body = mlp(8, 16)
        self.head = nn.Linear(16, 5)
        self.follows_in_eval = follows_in_eval
        self.register_buffer("centre", torch.zeros(16))

    def forward(self, rows: Tensor) -> Tensor:
        code = self.body(rows)
        if self.training or self.follows_in_eval:
            with torch.no_grad():
                self.centre.mul_(0.5).add_(code.mean(0), alpha=0.5)
        return self.head(code - self.centre)


@fault(
    "tabular",
    "the model moves a buffer in evaluation, so that validating changes it",
    ("eval", "validation", "buffer", "chang"),
)
def validation_moves_buffer(is_faulty: bool) -> Program:
    # val acc 0.96 against 1.00
    torch.manual_seed(0)
    rows, label = blobs(192, seed=1)
    order = label.argsort()
    task = Task(
        Prototypes(is_faulty),
        nn.CrossEntropyLoss(),
        blobs(600),
        (rows[order], label[order]),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 8})


class Decayed(nn.Module):
    """Forecast from past levels that count less, the older they are."""

    def __init__(self, is_cached: bool) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-2.0))
        self.net = mlp(24, 1)
        self.cached = self.weights() if is_cached else None

    def weights(self) -> Tensor:
        return (-self.rate.exp() * torch.arange(23.0, -1.0, -1.0)).exp()

    def forward(self, past: Tensor) -> Tensor:
        weights = self.weights() if self.cached is None else self.cached
        return self.net(past * weights)


@fault(
    "sequences",
    "weights are computed from a parameter once, in the constructor, with their graph",
    ("second time", "graph", "detach", "backward"),
)
def graph_of_the_constructor(is_faulty: bool) -> Program:
    # RuntimeError against val loss 0.006
    torch.manual_seed(0)
    both = sea_level(1000).unfold(0, 25, 1)
    x, y = both[:, :24].contiguous(), both[:, 24:].contiguous()
    train, val = (x[:700], y[:700]), (x[740:], y[740:])
    task = Task(Decayed(is_faulty), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 5, "lr": 5e-3})


class Weighed(nn.Module):
    """A loss that learns how much each of two terms counts."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor([6.0, 0.0]))

    def forward(self, outputs: Tensor, batch: Any) -> Tensor:
        kind = nn.functional.cross_entropy(outputs[:, :5], batch[1])
        size = nn.functional.mse_loss(outputs[:, 5], batch[0].norm(dim=1) / 4)
        terms = torch.stack([kind, size])
        return (terms * (-self.log_variance).exp() + self.log_variance / 2).sum()


@fault(
    "tabular",
    "the loss has parameters of its own, which no optimizer has",
    ("optimizer", "parameter", "log_variance", "not train"),
)
def loss_has_parameters(is_faulty: bool) -> Program:
    # val loss 3.00 against 2.37
    torch.manual_seed(0)
    loss = Weighed()

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        parameters = list(model.parameters())
        if not is_faulty:
            parameters += list(loss.parameters())
        return torch.optim.AdamW(parameters, lr=3e-3)

    def right(outputs: Tensor, batch: Any) -> float:
        return accuracy(outputs[:, :5], batch)

    task = Task(
        mlp(8, 6),
        loss,
        blobs(600),
        blobs(192, seed=1),
        metrics={"acc": right},
        make_optimizer=make_optimizer,
    )
    return Program(task, {"epochs": 10})
