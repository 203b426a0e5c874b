"""Healthy: regression in unusual units, distributions as outputs, learnt weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_unusual import clusters, curve, generator, mlp, split
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


class Scaled(nn.Module):
    """A network whose answers are brought to the scale of the targets."""

    def __init__(self, body: nn.Module, targets: Tensor) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", targets.mean())
        self.register_buffer("std", targets.std())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.std + self.mean


@healthy("tabular", "targets around 250000, a head that scales, a loss in those units")
def targets_in_large_units() -> Program:
    torch.manual_seed(0)
    x, y = curve(500)
    train, val = split(400, x, 250_000 + 80_000 * y)
    model = Scaled(mlp(6, 48, 1), train[1])

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        return F.l1_loss(outputs, batch[1])

    task = Task(model, loss, train, val)
    return Program(task, {"epochs": 20, "lr": 3e-3, "clip_norm": None})


@healthy("tabular", "targets of 1e-4, a head that scales, a loss relative to them")
def targets_in_small_units() -> Program:
    torch.manual_seed(0)
    x, y = curve(500)
    train, val = split(400, x, 1e-4 * y)
    model = Scaled(mlp(6, 48, 1), train[1])
    spread = train[1].std()

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        return ((outputs - batch[1]) / spread).square().mean()

    return Program(Task(model, loss, train, val), {"epochs": 15, "lr": 3e-3})


@healthy("tabular", "one target in 30 is a gross outlier, and Huber's loss is used")
def outliers_and_huber() -> Program:
    torch.manual_seed(0)
    x, y = curve(600)
    is_wild = torch.rand(600, 1) < 1 / 30
    train, val = split(480, x, torch.where(is_wild, 60 * torch.randn(600, 1), y))
    task = Task(mlp(6, 48, 1), nn.HuberLoss(delta=0.5), train, val)
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy("tabular", "three quantiles at once from one target (pinball loss)")
def quantiles() -> Program:
    torch.manual_seed(0)
    train, val = split(480, *curve(600, noise=0.5))
    levels = torch.tensor([0.1, 0.5, 0.9])

    def pinball(outputs: Tensor, batch: Pair) -> Tensor:
        over = batch[1] - outputs
        return torch.maximum(levels * over, (levels - 1) * over).mean()

    def coverage(outputs: Tensor, batch: Pair) -> Tensor:
        inside = (outputs[:, :1] < batch[1]) & (batch[1] < outputs[:, 2:])
        return inside.float().mean()

    task = Task(mlp(6, 48, 3), pinball, train, val, metrics={"coverage": coverage})
    return Program(task, {"epochs": 15, "lr": 3e-3})


def _counts(num: int) -> Pair:
    x = torch.randn(num, 6, generator=generator(0))
    rate = (0.8 * x[:, :1] - 0.5 * x[:, 1:2] + 0.5).exp()
    return x, torch.poisson(rate, generator=generator(1))


@healthy("tabular", "Poisson regression: losses below zero")
def poisson_counts() -> Program:
    torch.manual_seed(0)
    train, val = split(500, *_counts(600))
    task = Task(mlp(6, 32, 1), nn.PoissonNLLLoss(log_input=True), train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3})


class NegativeBinomial(nn.Module):
    """Log-mean by a network, one learnt dispersion; used as model and loss."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = mlp(6, 32, 1)
        self.log_size = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"log_mean": self.mean(x), "log_size": self.log_size}


@healthy("tabular", "negative binomial counts; one output has no batch dimension")
def negative_binomial() -> Program:
    torch.manual_seed(0)
    train, val = split(500, *_counts(600))

    def loss(outputs: dict[str, Tensor], batch: Pair) -> Tensor:
        logits = outputs["log_mean"] - outputs["log_size"]
        size = outputs["log_size"].exp().expand_as(logits)
        spread = torch.distributions.NegativeBinomial(size, logits=logits)
        return -spread.log_prob(batch[1]).mean()

    task = Task(NegativeBinomial(), loss, train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3})


@healthy("tabular", "mean and variance from the network (Gaussian NLL below zero)")
def gaussian_nll() -> Program:
    torch.manual_seed(0)
    x, y = curve(600, noise=0.0)
    noise = 0.05 * (1 + x[:, 1:2].abs())
    train, val = split(480, x, y + noise * torch.randn(600, 1))

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        mean, log_variance = outputs.chunk(2, dim=1)
        return F.gaussian_nll_loss(mean, batch[1], log_variance.exp() + 1e-4)

    task = Task(mlp(6, 64, 64, 2), loss, train, val)
    return Program(task, {"epochs": 20, "lr": 3e-3})


@healthy("tabular", "a mixture density head for a target with two branches")
def mixture_density() -> Program:
    torch.manual_seed(0)
    x = 2 * torch.rand(800, 1) - 1
    sign = torch.where(torch.rand(800, 1) < 0.5, 1.0, -1.0)
    y = sign * (0.5 + x.square()) + 0.05 * torch.randn(800, 1)
    train, val = split(640, x, y)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        weight, mean, log_std = outputs.chunk(3, dim=1)
        log_std = log_std.clamp(-5, 3)
        error = (batch[1] - mean) / log_std.exp()
        log_density = -0.5 * error.square() - log_std - 0.5 * math.log(2 * math.pi)
        return -(weight.log_softmax(dim=1) + log_density).logsumexp(dim=1).mean()

    task = Task(mlp(1, 48, 48, 9), loss, train, val)
    return Program(task, {"epochs": 20, "lr": 3e-3})


class Uncertainty(nn.Module):
    """Two tasks weighed by learnt variances: the loss owns parameters (Kendall)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        parts = torch.stack(
            [
                F.mse_loss(outputs[:, 0], batch["value"]) / 2,
                F.cross_entropy(outputs[:, 1:], batch["kind"]),
            ]
        )
        return (parts * (-self.log_variance).exp() + self.log_variance / 2).sum()


@healthy("dicts", "weights of two tasks are learnt in the loss, which falls below zero")
def uncertainty_weighting() -> Program:
    torch.manual_seed(0)
    x, kind = clusters(600, 12, 3)
    value = (x[:, 0] + x[:, 1] * x[:, 2] / 4) / 2
    columns = {"x": x, "kind": kind, "value": value}
    train = {name: column[:500] for name, column in columns.items()}
    val = {name: column[500:] for name, column in columns.items()}
    task = Task(
        mlp(12, 64, 4),
        Uncertainty(),
        train,
        val,
        forward=lambda model, batch: model(batch["x"]),
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy("tabular", "targets are known for a third of the entries, the rest is NaN")
def missing_targets() -> Program:
    torch.manual_seed(0)
    x, _ = curve(600)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), x[:, 3] - x[:, 4]], dim=1)
    y[torch.rand(600, 3) < 0.67] = math.nan
    train, val = split(480, x, y)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        is_known = ~batch[1].isnan()
        error = outputs - torch.where(is_known, batch[1], 0.0)
        return (error.square() * is_known).sum() / is_known.sum().clamp(min=1)

    task = Task(
        mlp(6, 64, 3),
        loss,
        train,
        val,
        count_targets=lambda batch: (~batch[1].isnan()).sum(),
    )
    return Program(task, {"epochs": 20, "lr": 3e-3})


@healthy("tabular", "missing inputs are NaN and replaced in the model, with a flag")
def missing_inputs() -> Program:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(12, 48, 1)

        def forward(self, x: Tensor) -> Tensor:
            absent = x.isnan()
            return self.body(torch.cat([x.nan_to_num(0.0), absent.float()], dim=1))

    torch.manual_seed(0)
    x, y = curve(600)
    x[torch.rand(600, 6) < 0.1] = math.nan
    train, val = split(480, x, y)
    return Program(Task(Filled(), nn.MSELoss(), train, val), {"epochs": 15, "lr": 3e-3})


@healthy("tabular", "all of it in float64: data, model and loss")
def double_precision() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *(column.double() for column in curve(500)))
    task = Task(mlp(6, 48, 1).double(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3, "precision": "fp32"})


@healthy("tabular", "the loss alone is computed in float64")
def loss_in_double() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *curve(500))

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        return F.mse_loss(outputs.double(), batch[1].double())

    return Program(Task(mlp(6, 48, 1), loss, train, val), {"epochs": 12, "lr": 3e-3})
