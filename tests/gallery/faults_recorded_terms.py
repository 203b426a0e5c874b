"""Faults recorded in losses of several terms, mixture heads, gates and fallbacks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import (
    AHEAD,
    PAST,
    Mixture,
    mixture_error,
    mixture_nll,
    mlp,
    sea_level,
    tides,
)
from nbutils.data.task import Task


@fault(
    "sequences",
    "means, log widths and log weights are unpacked as weights, means and widths",
    ("order", "unbounded", "does not depend on the target", "below any"),
    seeds=("C: tuple order read as (pi, mu, sigma)",),
)
def mixture_unpacked_in_wrong_order(is_faulty: bool) -> Program:
    # val error 551 against 0.12, at a loss of -552 against -0.36
    torch.manual_seed(0)

    def loss(outputs: tuple[Tensor, Tensor, Tensor], batch: Any) -> Tensor:
        if is_faulty:
            log_pi, mu, log_sigma = outputs
        else:
            mu, log_sigma, log_pi = outputs
        return mixture_nll(log_pi, mu, log_sigma, batch[1])

    train, val = tides()
    task = Task(Mixture(), loss, train, val, metrics={"error": mixture_error})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "sequences",
    "the loss has three components written in it, the head has another number",
    ("shape", "invalid", "view"),
    seeds=("C: num_components=3 literal",),
)
def literal_number_of_parts(is_faulty: bool) -> Program:
    # RuntimeError against val loss -0.37
    torch.manual_seed(0)
    parts = 4 if is_faulty else 3

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        raw = outputs.view(len(outputs), AHEAD, 3, 3)
        mu, log_sigma, weights = raw.unbind(-1)
        return mixture_nll(
            weights.log_softmax(-1), mu, log_sigma.clamp(-5, 2), batch[1]
        )

    train, val = tides()
    task = Task(mlp(PAST, AHEAD * parts * 3), loss, train, val)
    return Program(task, {"epochs": 8, "lr": 3e-3})


@fault(
    "sequences",
    "the direction term is added as a number, so that it has no gradient",
    ("detach", "gradient", ".item", "rises"),
    seeds=("C: aux loss added as .item()",),
)
def term_added_as_number(is_faulty: bool) -> Program:
    # val right 0.47 against 0.93
    torch.manual_seed(0)

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(PAST, 48), nn.ReLU())
            self.level = nn.Linear(48, AHEAD)
            self.rises = nn.Linear(48, 1)

        def forward(self, past: Tensor) -> dict[str, Tensor]:
            hidden = self.body(past)
            return {"level": self.level(hidden), "rises": self.rises(hidden)}

    def rises(batch: Any) -> Tensor:
        return (batch[1][:, -1:] > batch[0][:, -1:]).float()

    def loss(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        level = nn.functional.mse_loss(outputs["level"], batch[1])
        bce = nn.functional.binary_cross_entropy_with_logits
        direction = bce(outputs["rises"], rises(batch))
        return level + 0.5 * (direction.item() if is_faulty else direction)

    def right(outputs: dict[str, Tensor], batch: Any) -> float:
        return float(((outputs["rises"] > 0) == rises(batch)).float().mean())

    train, val = tides()
    task = Task(TwoHeads(), loss, train, val, metrics={"right": right})
    return Program(task, {"epochs": 10})


@fault(
    "sequences",
    "the trend term compares ranks, which have no gradient",
    ("gradient", "detach", "rank"),
    seeds=("C: rank trend has no gradient",),
)
def term_of_ranks(is_faulty: bool) -> Program:
    # val course 1.12 against 0.034
    torch.manual_seed(0)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).mean()

    def trend(guess: Tensor, truth: Tensor) -> Tensor:
        return 1 - correlation(guess, truth)

    def loss(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        guess, truth = outputs, batch[1]
        level = (guess.mean(1) - truth.mean(1)).pow(2).mean()
        if is_faulty:
            guess, truth = (v.argsort(1).argsort(1).float() for v in (guess, truth))
        return {"level": level, "trend": trend(guess, truth)}

    train, val = tides()
    metrics = {"course": lambda outputs, batch: float(trend(outputs, batch[1]))}
    task = Task(mlp(PAST, AHEAD), loss, train, val, metrics=metrics)
    return Program(task, {"epochs": 10})


@fault(
    "sequences",
    "the gate of a branch is shut at the start, so that the branch gets no gradient",
    ("gate", "gradient", "saturat", "vanish"),
    seeds=("C: gate collapse",),
)
def gate_is_shut(is_faulty: bool) -> Program:
    # val loss 0.56 against 0.0035
    torch.manual_seed(0)
    hours = torch.arange(1300.0)
    periods = torch.tensor([12.42, 12.0, 23.93, 25.82])
    bodies = torch.cat(
        [f(2 * math.pi * hours[:, None] / periods) for f in (torch.cos, torch.sin)], 1
    )

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bodies = mlp(8, 16)
            self.gate = nn.Parameter(torch.full((16,), -40.0 if is_faulty else 0.0))
            self.calendar = mlp(1, 16)
            self.head = nn.Linear(16, 1)

        def forward(self, features: Tensor) -> Tensor:
            bodies, day = features[:, :8], features[:, 8:]
            hidden = self.calendar(day) + self.gate.sigmoid() * self.bodies(bodies)
            return self.head(hidden)

    features = torch.cat([bodies, ((hours % 24) / 24)[:, None]], 1)
    level = sea_level(1300)[:, None]
    train, val = (features[:1000], level[:1000]), (features[1000:], level[1000:])
    task = Task(Gated(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3})
