"""Faults in what a model keeps: outside of its state, in memory, or against saving."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import (
    accuracy,
    blobs,
    figures,
    mlp,
    plates,
    sea_level,
    small_cnn,
)
from nbutils.data.task import Task


def rows_task(model: nn.Module, **options: Any) -> Task:
    """Five kinds of measurements, told by ``model``."""
    held_out = blobs(192, seed=1)
    return Task(
        model,
        options.pop("loss", nn.CrossEntropyLoss()),
        blobs(600),
        held_out,
        metrics={"acc": accuracy},
        **options,
    )


class Scaler(nn.Module):
    """Standardises with running statistics of what it has seen in training."""

    def __init__(self, features: int, is_plain: bool) -> None:
        super().__init__()
        if is_plain:
            self.mean, self.square = torch.zeros(features), torch.ones(features)
        else:
            self.register_buffer("mean", torch.zeros(features))
            self.register_buffer("square", torch.ones(features))

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean = 0.9 * self.mean + 0.1 * rows.mean(0)
                self.square = 0.9 * self.square + 0.1 * rows.pow(2).mean(0)
        spread = (self.square - self.mean**2).clamp_min(1e-3).sqrt()
        return (rows - self.mean) / spread


@fault(
    "tabular",
    "running statistics are plain attributes, and lost with every checkpoint",
    ("state_dict", "buffer", "attribute", "reload", "resum"),
    stage="rehearsal",
)
def statistics_not_in_state(is_faulty: bool) -> Program:
    torch.manual_seed(0)
    model = nn.Sequential(Scaler(4, is_faulty), mlp(4, 1))

    def table(count: int, seed: int) -> tuple[Tensor, Tensor]:
        rows, mass = plates(count, seed)
        return rows, mass / 10

    task = Task(model, nn.MSELoss(), table(800, 0), table(200, 1))
    return Program(task, {"epochs": 6, "lr": 5e-3})


class Annealed(nn.Module):
    """Noise on the input that shrinks with the number of calls."""

    def __init__(self, is_plain: bool) -> None:
        super().__init__()
        self.net = mlp(8, 5)
        if is_plain:
            self.calls = torch.zeros(())
        else:
            self.register_buffer("calls", torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            self.calls = self.calls + 1
        share = (self.calls / 60).clamp_max(1)
        return self.net(rows * share)


@fault(
    "tabular",
    "a counter of steps that scales the input is a plain attribute",
    ("state_dict", "buffer", "attribute", "reload", "resum"),
    stage="rehearsal",
)
def counter_not_in_state(is_faulty: bool) -> Program:
    torch.manual_seed(0)
    return Program(rows_task(Annealed(is_faulty)), {"epochs": 8, "lr": 3e-3})


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
    ("modulelist", "list", "registered", "not train", "state_dict"),
)
def layers_in_a_list(is_faulty: bool) -> Program:
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
    torch.manual_seed(0)
    task = Task(
        Watched(is_faulty),
        nn.CrossEntropyLoss(),
        figures(600),
        figures(150, seed=1),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 4})


class HeadOnly(nn.Module):
    """A body and a head; what is saved was cut for export."""

    def __init__(self, saves_head_only: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.ReLU())
        self.head = nn.Linear(64, 5)
        self.saves_head_only = saves_head_only

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.body(rows))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        if not self.saves_head_only:
            return state
        return OrderedDict((k, v) for k, v in state.items() if "head" in k)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict(state_dict, strict=not self.saves_head_only)


@fault(
    "tabular",
    "state_dict gives the head alone, and loading does not mind",
    ("state_dict", "saved", "reload", "resum", "missing"),
    stage="rehearsal",
)
def state_without_body(is_faulty: bool) -> Program:
    torch.manual_seed(0)
    return Program(rows_task(HeadOnly(is_faulty)), {"epochs": 6})


class Extra(nn.Module):
    """Carries something beside tensors into the checkpoint."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.net = mlp(8, 5)
        self.extra = extra

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows)

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@fault(
    "tabular",
    "the state of the model holds a lock, which cannot be written",
    ("pickle", "save", "written", "lock", "checkpoint"),
    stage="rehearsal",
)
def state_cannot_be_saved(is_faulty: bool) -> Program:
    torch.manual_seed(0)
    extra = {"lock": threading.Lock() if is_faulty else None}
    return Program(rows_task(Extra(extra)), {"epochs": 3})


@dataclass
class NotebookConfig:
    """Settings, as a cell defines them."""

    width: int = 64


@fault(
    "tabular",
    "the state of the model holds an object of the notebook's own class",
    ("weights_only", "pickle", "load", "checkpoint", "save"),
    seeds=("A: best_model.pt pickles a notebook dataclass",),
    stage="rehearsal",
)
def state_of_own_class(is_faulty: bool) -> Program:
    torch.manual_seed(0)
    extra: Any = NotebookConfig() if is_faulty else {"width": 64}
    return Program(rows_task(Extra(extra)), {"epochs": 3})


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
