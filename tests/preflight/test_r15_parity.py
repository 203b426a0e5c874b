"""R15: the path that evaluates against the path that trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.model import parity
from nbutils.preflight.session import run_checks

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
DATA = X, torch.arange(48) % 3


class Own(nn.Module):
    """Does something else in eval mode."""

    def __init__(self, change) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.change = change

    def forward(self, x):
        out = self.body(x)
        return out if self.training else self.change(out)


def look(model, **settings):
    task = Task(model, nn.CrossEntropyLoss(), DATA)
    config = RunConfig().replace(batch_size=16, **settings)
    return run_checks(task, config, [parity.CHECK])[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda out: out.softmax(-1), "softmax"),
        (lambda out: out.sigmoid(), "sigmoid"),
        (lambda out: out.log_softmax(-1), "log_softmax"),
        (lambda out: out / 10, "0.1 times"),
        (lambda out: out[:1].expand_as(out), "every sample gets the same output"),
    ],
)
def test_r15_eval_path_of_another_meaning_warns(change, text):
    finding = look(Own(change))
    assert finding.severity == "warn"
    assert text in f"{finding.title} {finding.actual}"


def test_r15_nan_in_eval_alone_fails():
    finding = look(Own(lambda out: out / 0 * 0))
    assert finding.severity == "fail"
    assert "NaN in eval mode alone" in finding.title


def noisy(out):
    return out


class Masked(Own):
    def forward(self, x):
        return self.body(x + torch.randn_like(x) if self.training else x)


HEALTHY = {
    "plain": lambda: nn.Linear(6, 3),
    "same": lambda: Own(noisy),
    "noise in train": lambda: Masked(noisy),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.9), nn.Linear(6, 3)),
    "norm": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
    ),
    "zero head": lambda: (
        nn.init.zeros_(Own(noisy).body[2].weight) is None
        or nn.Sequential(nn.Linear(6, 3))
    ),
    "refined in eval": lambda: Own(lambda out: out + 0.3 * out.tanh()),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_r15_healthy_models_pass(name):
    torch.manual_seed(0)
    finding = look(HEALTHY[name]())
    assert finding.severity == "pass", finding.title


@pytest.mark.parametrize(
    ("momentum", "text"),
    [(0.0, "stay at their start"), (1e-5, "stay at their start"), (0.99, "last batch")],
)
def test_r15_momentum_of_another_meaning_warns(momentum, text):
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=momentum), nn.Linear(8, 3)
    )
    finding = look(model)
    assert finding.severity == "warn"
    assert text in finding.title
    assert f"momentum={momentum:g}" in finding.actual


def test_r15_filled_or_resting_statistics_pass():
    norm = nn.BatchNorm1d(8, momentum=0.0)
    norm.running_mean += 1.0
    assert (
        look(nn.Sequential(nn.Linear(6, 8), norm, nn.Linear(8, 3))).severity == "pass"
    )
    slow = nn.BatchNorm1d(8, momentum=None)
    assert (
        look(nn.Sequential(nn.Linear(6, 8), slow, nn.Linear(8, 3))).severity == "pass"
    )
