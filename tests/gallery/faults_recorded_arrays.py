"""Faults recorded in an estimator of directions and covariances from antenna arrays."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import mlp, snapshots, steering
from nbutils.data.task import Task

ANTENNAS = 8


def covariance(waves: Tensor) -> Tensor:
    """Sample covariance with a trace of 1."""
    matrix = waves @ waves.mH / waves.shape[-1]
    trace = matrix.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    return matrix / trace[:, None, None]


class AngleNet(nn.Module):
    """Angle of a source from the covariance of what the antennas received."""

    def __init__(self, keeps_imaginary: bool = True) -> None:
        super().__init__()
        self.keeps_imaginary = keeps_imaginary
        self.net = mlp(ANTENNAS**2 * (2 if keeps_imaginary else 1), 1, 96)

    def forward(self, waves: Tensor) -> Tensor:
        matrix = covariance(waves).flatten(1)
        if self.keeps_imaginary:
            rows = torch.cat([matrix.real, matrix.imag], 1)
        else:
            rows = matrix.to(torch.float32)
        return self.net(ANTENNAS * rows).squeeze(1)


def mean_error(outputs: Tensor, batch: Any) -> float:
    """Mean absolute error in degrees."""
    return math.degrees(float((outputs - batch[1]).abs().mean()))


@fault(
    "arrays",
    "complex covariances are cast to their real part",
    ("complex", "imag", "real part"),
    seeds=("D: complex arrays",),
)
def real_part_only(is_faulty: bool) -> Program:
    # val degrees 29.9 against 0.99
    torch.manual_seed(0)
    task = Task(
        AngleNet(keeps_imaginary=not is_faulty),
        nn.functional.mse_loss,
        snapshots(800),
        snapshots(200, seed=1),
        metrics={"degrees": mean_error},
    )
    return Program(task, {"epochs": 10})


def to_radians(angle: Tensor) -> Tensor:
    """Degrees as radians."""
    return angle * math.pi / 180


class FactorNet(nn.Module):
    """Covariance of the source as an outer product, and its angle if asked for."""

    def __init__(self, has_angle: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2 * ANTENNAS**2, 96), nn.ReLU())
        self.factor = nn.Linear(96, 2 * ANTENNAS)
        self.k_head = nn.Linear(96, 1) if has_angle else None
        if self.k_head is not None:
            nn.init.zeros_(self.k_head.weight)
            nn.init.zeros_(self.k_head.bias)

    def forward(self, waves: Tensor) -> dict[str, Tensor]:
        matrix = covariance(waves).flatten(1) * ANTENNAS
        hidden = self.body(torch.cat([matrix.real, matrix.imag], 1))
        pair = self.factor(hidden).view(-1, 2, ANTENNAS)
        factor = torch.complex(pair[:, 0], pair[:, 1]).unsqueeze(-1)
        outputs = {"matrix": factor @ factor.mH}
        if self.k_head is not None:
            outputs["angle"] = self.k_head(hidden).squeeze(1)
        return outputs


def true_covariance(angle: Tensor, trace: float = ANTENNAS) -> Tensor:
    """Covariance of one unit source without noise."""
    response = steering(angle, ANTENNAS).unsqueeze(-1)
    return response @ response.mH * (trace / ANTENNAS)


def normalised_error(guess: Tensor, truth: Tensor) -> Tensor:
    """Squared error over squared size, a mean over the batch."""
    size = truth.abs().pow(2).sum((-2, -1))
    return ((guess - truth).abs().pow(2).sum((-2, -1)) / size).mean()


def recovered(outputs: dict[str, Tensor], batch: Any) -> float:
    """Normalised error of the covariance."""
    return float(normalised_error(outputs["matrix"], true_covariance(batch[1])))


@fault(
    "arrays",
    "degrees are taken for radians in the data, and converted once more in the loss",
    ("radian", "degree", "near zero", "share of"),
    seeds=("D: radians converted twice, the term becomes 0",),
)
def radians_twice(is_faulty: bool) -> Program:
    # val degrees 22.6 against 5.45
    torch.manual_seed(0)

    def loss(outputs: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        angle = outputs["angle"] - batch[1]
        error = to_radians(angle) if is_faulty else angle
        return {
            "cov": normalised_error(outputs["matrix"], true_covariance(batch[1])),
            "angle": (1 - torch.cos(2 * error)).mean(),
        }

    def degrees(outputs: dict[str, Tensor], batch: Any) -> float:
        return mean_error(outputs["angle"], batch)

    task = Task(
        FactorNet(),
        loss,
        snapshots(800),
        snapshots(200, seed=1),
        metrics={"degrees": degrees},
    )
    return Program(task, {"epochs": 12, "optimizer": "sgd", "lr": 0.1})


@fault(
    "arrays",
    "a term of the loss fails and is replaced by zero",
    ("zero", "constant", "gradient", "except"),
    seeds=("D: except: continue -> 0.0",),
)
def failing_term_is_zero(is_faulty: bool) -> Program:
    # val degrees 30.0 against 0.80
    torch.manual_seed(0)

    def angle_term(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        try:
            key = "angles" if is_faulty else "angle"
            return (outputs[key] - batch[1]).pow(2).mean()
        except KeyError:
            return torch.zeros(())

    def loss(outputs: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        truth = true_covariance(batch[1])
        return {
            "cov": normalised_error(outputs["matrix"], truth),
            "angle": angle_term(outputs, batch),
        }

    def degrees(outputs: dict[str, Tensor], batch: Any) -> float:
        return mean_error(outputs["angle"], batch)

    task = Task(
        FactorNet(),
        loss,
        snapshots(800),
        snapshots(200, seed=1),
        metrics={"degrees": degrees},
    )
    return Program(task, {"epochs": 12})


@fault(
    "arrays",
    "the weight of the covariance term, the main one, is 0",
    ("weight", "lam"),
    seeds=("D: lam_cov missing in the constructor's call",),
)
def main_weight_zero(is_faulty: bool) -> Program:
    # val nmse 0.98 against 0.0051
    torch.manual_seed(0)

    def loss(outputs: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        truth = true_covariance(batch[1])
        return {
            "cov": normalised_error(outputs["matrix"], truth),
            "angle": (outputs["angle"] - batch[1]).pow(2).mean(),
        }

    task = Task(
        FactorNet(),
        loss,
        snapshots(800),
        snapshots(200, seed=1),
        metrics={"nmse": recovered},
        loss_weights={"cov": 0.0 if is_faulty else 1.0, "angle": 1.0},
    )
    return Program(task, {"epochs": 12})


@fault(
    "arrays",
    "the optimizer was given body and factor, and not the later added K-head",
    ("optimizer", "k_head", "not move", "does not change"),
    seeds=("D: optimizer missing K-head params",),
)
def head_not_in_optimizer(is_faulty: bool) -> Program:
    # val degrees 30.0 against 0.84
    torch.manual_seed(0)

    def loss(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        truth = true_covariance(batch[1])
        angle = (outputs["angle"] - batch[1]).pow(2).mean()
        return normalised_error(outputs["matrix"], truth) + angle

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": model.body.parameters()},
            {"params": model.factor.parameters(), "lr": 4e-3},
        ]
        if not is_faulty:
            groups.append({"params": model.k_head.parameters()})
        return torch.optim.AdamW(groups, lr=1e-3)

    def degrees(outputs: dict[str, Tensor], batch: Any) -> float:
        return mean_error(outputs["angle"], batch)

    task = Task(
        FactorNet(),
        loss,
        snapshots(800),
        snapshots(200, seed=1),
        make_optimizer=make_optimizer,
        metrics={"degrees": degrees},
    )
    return Program(task, {"epochs": 8})


class BlendNet(FactorNet):
    """Blends the predicted covariance with the sample's, scaled to the same trace."""

    def __init__(self, scales_in_training: bool) -> None:
        super().__init__(has_angle=False)
        self.scales_in_training = scales_in_training

    def forward(self, waves: Tensor) -> dict[str, Tensor]:
        outputs = super().forward(waves)
        sample = waves @ waves.mH / waves.shape[-1] * 1e-4
        if self.scales_in_training or not self.training:
            sample = covariance(waves) * ANTENNAS
        outputs["matrix"] = 0.5 * outputs["matrix"] + 0.5 * sample
        return outputs


@fault(
    "arrays",
    "the sample covariance is scaled to unit trace in evaluation, not in training",
    ("eval", "train mode", "training mode"),
    seeds=("D: R_samp not trace-normalised in training",),
)
def scaled_in_eval_only(is_faulty: bool) -> Program:
    # val loss 0.22 against 0.0051
    torch.manual_seed(0)

    def loss(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        return normalised_error(outputs["matrix"], true_covariance(batch[1]))

    model = BlendNet(scales_in_training=not is_faulty)
    task = Task(model, loss, snapshots(800), snapshots(200, seed=1))
    return Program(task, {"epochs": 12})


@fault(
    "arrays",
    "the prediction has a trace of 1 and the truth one of N: nothing can reach it",
    ("scale", "trace", "magnitude", "range"),
    seeds=("D: oracle loss 0.9965 with a perfect prediction",),
)
def trace_of_one(is_faulty: bool) -> Program:
    # val loss 0.77 against 0.0042
    torch.manual_seed(0)

    def loss(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        matrix = outputs["matrix"]
        trace = matrix.diagonal(dim1=-2, dim2=-1).real.sum(-1)
        scale = (1 if is_faulty else ANTENNAS) / (trace + 1e-6)
        truth = true_covariance(batch[1])
        return normalised_error(matrix * scale[:, None, None], truth)

    task = Task(
        FactorNet(has_angle=False), loss, snapshots(800), snapshots(200, seed=1)
    )
    return Program(task, {"epochs": 12})


@fault(
    "arrays",
    "eigenvectors are differentiated where all eigenvalues are zero at the start",
    ("nan", "finite", "eig"),
    seeds=("D: eigh backward NaN with degenerate eigenvalues",),
)
def degenerate_eigenvalues(is_faulty: bool) -> Program:
    # SkipBudgetError against val music 0.011
    torch.manual_seed(0)

    model = FactorNet(has_angle=False)
    if is_faulty:
        nn.init.zeros_(model.factor.weight)
        nn.init.zeros_(model.factor.bias)

    def loss(outputs: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        vectors = torch.linalg.eigh(outputs["matrix"])[1]
        noise = vectors[..., :-1]
        response = steering(batch[1], ANTENNAS).unsqueeze(-1)
        leak = (noise.mH @ response).abs().pow(2).sum((-2, -1)).mean()
        truth = true_covariance(batch[1])
        return {"cov": normalised_error(outputs["matrix"], truth), "music": leak}

    task = Task(
        model,
        loss,
        snapshots(800),
        snapshots(200, seed=1),
        loss_weights={"music": 0.1},
    )
    return Program(task, {"epochs": 12})
