"""Faults in what is saved: state that is lost, cut off or cannot be written."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import mlp, plates, rows_task
from nbutils.data.task import Task


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
    ("state_dict", "buffer", "attribute", "reload"),
    stage="rehearsal",
)
def statistics_not_in_state(is_faulty: bool) -> Program:
    # val loss after loading 47 against 0.009
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
    ("state_dict", "buffer", "attribute", "reload"),
    stage="rehearsal",
)
def counter_not_in_state(is_faulty: bool) -> Program:
    # val loss after loading 1.6 against 0.004
    torch.manual_seed(0)
    return Program(rows_task(Annealed(is_faulty)), {"epochs": 8, "lr": 3e-3})


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
    ("state_dict", "reload", "missing", "resum"),
    stage="rehearsal",
)
def state_without_body(is_faulty: bool) -> Program:
    # val loss after loading 0.41 against 0.07
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
    ("pickle", "save", "lock"),
    stage="rehearsal",
)
def state_cannot_be_saved(is_faulty: bool) -> Program:
    # TypeError against val acc 1.00
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
    ("weights_only", "pickle", "own class", "safely"),
    seeds=("A: best_model.pt pickles a notebook dataclass",),
    stage="rehearsal",
)
def state_of_own_class(is_faulty: bool) -> Program:
    # CheckpointError against val acc 1.00
    torch.manual_seed(0)
    extra: Any = NotebookConfig() if is_faulty else {"width": 64}
    return Program(rows_task(Extra(extra)), {"epochs": 3})
