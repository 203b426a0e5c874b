"""R6: the learning rate, tried, and followed over the whole run."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.update import step
from nbutils.preflight.session import run_checks


def data(count: int = 64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return x, (x @ torch.randn(6, 3, generator=generator)).argmax(1)


def look(make_schedule=None, *, rate: float = 1e-3, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    options = {}
    if make_schedule is not None:
        options["make_optimizer"] = lambda m: torch.optim.SGD(m.parameters(), rate)
        options["make_schedule"] = make_schedule
        settings = {"batch_size": 8, "epochs": 50, **settings}
    task = Task(model, nn.CrossEntropyLoss(), data(), **options)
    return run_checks(task, RunConfig(device="cpu", **settings), [step.CHECK])[0]


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 100.0), ("adamw", 10.0)])
def test_r6_rate_that_is_too_high_warns_with_a_better_one(optimizer, lr):
    finding = look(optimizer=optimizer, lr=lr)
    assert finding.severity == "warn"
    assert "too high" in finding.title
    assert "Lower lr, to about" in finding.fix


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_r6_rate_that_moves_nothing_warns_with_a_better_one(optimizer):
    finding = look(optimizer=optimizer, lr=1e-9)
    assert finding.severity == "warn"
    assert "too low to move the weights" in finding.title


@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [("sgd", 0.5), ("sgd", 1e-4), ("adamw", 0.05), ("adamw", 1e-6)],
)
def test_r6_rates_that_work_pass(optimizer, lr):
    finding = look(optimizer=optimizer, lr=lr)
    assert finding.severity == "pass", finding


def factor(function):
    return lambda optimizer, _: schedulers.LambdaLR(optimizer, function)


FAULTS = {
    "turns up again": lambda o, n: schedulers.CosineAnnealingLR(o, 50),
    "reaches 1e-12 at update 90 of 400": lambda o, n: schedulers.StepLR(o, 10),
    "reaches 0 at update 100 of 400": factor(lambda i: max(0.0, 1 - i / 100)),
    "0 for the first 100 of 400": factor(lambda i: min(1, i // 100)),
    "multiplies the learning rate by": factor(lambda i: 1.05**i),
    "never gets above": factor(lambda i: 1e-3 * (1 - i / 400)),
    "the warm-up outlasts the run": factor(lambda i: min(1, (i + 1) / 5000)),
    "high again": factor(lambda i: abs(1 - 2 * i / 400)),
}


@pytest.mark.parametrize("title", FAULTS)
def test_r6_curve_that_no_run_means_warns(title):
    finding = look(FAULTS[title])
    assert finding.severity == "warn"
    assert title in finding.title


BROKEN = {
    "becomes negative": factor(lambda i: 1 - i / 100),
    "is 0 for the whole run": factor(lambda i: 0.0),
    "is not finite": factor(lambda i: float("nan")),
}


@pytest.mark.parametrize("title", BROKEN)
def test_r6_curve_that_cannot_train_fails(title):
    finding = look(BROKEN[title])
    assert finding.severity == "fail"
    assert title in finding.title


def composed(optimizer, planned):
    warmup = schedulers.LinearLR(optimizer, 0.1, total_iters=20)
    rest = schedulers.CosineAnnealingLR(optimizer, planned - 20)
    return schedulers.SequentialLR(optimizer, [warmup, rest], [20])


HEALTHY = {
    "cosine": (lambda o, n: schedulers.CosineAnnealingLR(o, n), 0.1),
    "warm-up": (factor(lambda i: min(1, i / 20)), 0.1),
    "restarts": (lambda o, n: schedulers.CosineAnnealingWarmRestarts(o, 30), 0.1),
    "triangles": (lambda o, n: schedulers.CyclicLR(o, 1e-3, 0.1, 30), 0.1),
    "one cycle": (lambda o, n: schedulers.OneCycleLR(o, 0.1, n), 0.1),
    "steps": (lambda o, n: schedulers.MultiStepLR(o, [n // 2, n * 3 // 4]), 0.1),
    "composed": (composed, 0.1),
    "Noam": (factor(lambda i: 0.25 * min((i + 1) ** -0.5, (i + 1) / 1e3)), 1.0),
    "plateau": (lambda o, n: schedulers.ReduceLROnPlateau(o), 0.1),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_r6_curves_that_runs_mean_pass(name):
    make, rate = HEALTHY[name]
    finding = look(make, rate=rate)
    assert finding.severity == "pass", finding


@pytest.mark.parametrize("kind", ["onecycle", "cosine", "linear", "plateau"])
def test_r6_configured_curves_pass(kind):
    settings = {"schedule": kind, "warmup_steps": 2, "batch_size": 8, "epochs": 2}
    assert look(**settings).severity == "pass"


def test_r6_single_update_under_a_warm_up_passes():
    finding = look(factor(lambda i: i / 100), max_steps=1)
    assert finding.severity == "pass", finding
