"""Stacked linear layers, and norms that rest with nothing in them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.data.task import Task
from nbutils.preflight import preflight


def found(model, check="R4", **settings):
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    task = Task(model, nn.CrossEntropyLoss(), (x, (x[:, 0] * x[:, 1] > 0).long()))
    report = preflight(task, on_failure="return", device="cpu", **settings)
    return next(f for f in report.findings if f.id == check)


def stack(*between) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), *between, nn.Linear(16, 2))


def test_r4_layers_without_activation_are_told():
    finding = found(stack())
    assert finding.severity == "warn"
    assert "no activation" in finding.title


@pytest.mark.parametrize(
    "model",
    [
        stack(nn.ReLU()),
        stack(nn.Tanh()),
        stack(nn.LayerNorm(16)),
        nn.Linear(6, 2),
        nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 2)),
    ],
    ids=["relu", "tanh", "norm", "one", "one_with_norm", "bottleneck"],
)
def test_r4_other_models_are_not(model):
    assert "no activation" not in str(found(model))


def test_r4_batchnorm_that_rests_empty_is_told():
    model = stack(nn.BatchNorm1d(16), nn.ReLU())
    model[1].eval()
    assert found(model).severity == "pass"  # what arrives is of unit size
    with torch.no_grad():
        model[0].weight.mul_(100)
    assert "never filled" in found(model).title
    model[1].running_mean.fill_(0.3)
    assert found(model).severity == "pass"
    assert not model[1].training


def plateau(mode: str):
    def make_schedule(optimizer, planned_steps):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode)

    x = torch.randn(64, 6)
    data = (x, (x[:, 0] > 0).long())
    task = Task(
        stack(nn.ReLU()), nn.CrossEntropyLoss(), data, data, make_schedule=make_schedule
    )
    report = preflight(task, on_failure="return", device="cpu")
    return next(f for f in report.findings if f.id == "R6")


def test_r6_plateau_from_the_wrong_side_is_told():
    assert "plateau" in plateau("max").title
    assert plateau("min").severity == "pass"


def test_s3_few_validation_samples_are_told():
    def size(count: int):
        x = torch.randn(300, 6)
        y = (x[:, 0] > 0).long()
        task = Task(
            stack(nn.ReLU()), nn.CrossEntropyLoss(), (x, y), (x[:count], y[:count])
        )
        report = preflight(task, on_failure="return", device="cpu", depth="static")
        return next(f for f in report.findings if f.id == "S3")

    assert "3 samples" in size(3).title
    assert size(30).severity == "pass"


def test_s3_clipping_that_stops_sgd_is_told():
    def clip(norm: float):
        return found(
            stack(nn.ReLU()), "S3", optimizer="sgd", lr=0.1, clip_norm=norm, epochs=3
        )

    assert "clip_norm" in clip(1e-5).title
    assert clip(1.0).severity == "pass"
