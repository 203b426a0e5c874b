"""R10: one small batch is learnt, or the reason why not is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_tools import T, X, Y, generator, look, mlp
from torch import nn

from nbutils.data.task import Task

CE = nn.CrossEntropyLoss()


class Changed(nn.Module):
    """A network whose inputs or features are changed on their way."""

    def __init__(self, change) -> None:
        super().__init__()
        self.body, self.change = mlp(), change

    def forward(self, x):
        return self.body(self.change(x))


class OnlyBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.bias = mlp(), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.body(x).detach() + self.bias


def dead() -> nn.Module:
    model = mlp()
    nn.init.constant_(model[0].bias, -100.0)
    return model


def zeros() -> nn.Module:
    model = mlp()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def deep() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6) if i % 2 == 0 else nn.Sigmoid() for i in range(24)]
    return nn.Sequential(*layers, nn.Linear(6, 4))


SAME, ALIKE = "every sample the same output", "move for all samples alike"
FAULTS = {
    "dead units": (dead, SAME),
    "weights of 0": (zeros, SAME),
    "vanishing gradients": (deep, SAME),
    "inputs times 0": (lambda: Changed(lambda x: x * 0), SAME),
    "mean over the batch": (lambda: Changed(lambda x: x * 0 + x.mean(0)), SAME),
    "only a bias trains": (OnlyBias, ALIKE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_r10_model_that_cannot_fit_a_batch_warns(name):
    make, state = FAULTS[name]
    finding = look(Task(make(), CE, (X, Y)), "R10")
    assert finding.severity == "warn"
    assert "cannot fit even one batch of 16" in finding.title
    assert state in finding.title
    assert "→" in finding.actual


class Noisy(nn.Module):
    """Predicts the noise that was added, from a head of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6)
        nn.init.zeros_(self.body[2].weight)

    def forward(self, x):
        noise = torch.randn_like(x)
        return self.body(x + noise), noise


def frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


def learnt() -> nn.Module:
    model = mlp()
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        adam.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        adam.step()
    return model


HEALTHY = {
    "plain": lambda: Task(mlp(), CE, (X, Y)),
    "random labels": lambda: Task(
        mlp(), CE, (X, torch.randint(4, (48,), generator=generator()))
    ),
    "frozen body": lambda: Task(frozen(), CE, (X, Y)),
    "learnt before": lambda: Task(learnt(), CE, (X, Y)),
    "regression": lambda: Task(mlp(1), nn.MSELoss(), (X, T[:, None] * 1e3 + 1e4)),
    "noise prediction": lambda: Task(Noisy(), lambda o, b: F.mse_loss(*o), (X,)),
    "one label": lambda: Task(mlp(), CE, (X, Y * 0)),
    "one input": lambda: Task(mlp(), CE, (X[:1].expand(48, 6).clone(), Y)),
    "one sample": lambda: Task(mlp(), CE, (X[:1], Y[:1])),
    "dropout": lambda: Task(nn.Sequential(nn.Dropout(0.9), *mlp()), CE, (X, Y)),
    "reconstruction": lambda: Task(mlp(6), lambda o, b: F.mse_loss(o, b[0]), (X, Y)),
    "maximised": lambda: Task(
        mlp(1), lambda o, b: -(o[:, 0].tanh() * b[1]).mean(), (X, T)
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_r10_healthy_models_pass(name):
    assert look(HEALTHY[name](), "R10").severity == "pass"


def test_r10_shows_levels_and_controls():
    finding = look(Task(mlp(), CE, (X, Y)), "R10", lr=1e-2)
    told = dict(finding.details)
    assert "best constant answer 1.2" in told["levels of that batch"]
    end = float(told["learning one batch, as configured"].split()[2])
    alike = float(told["control, inputs all alike"].split()[2])
    assert end < 1.2 < alike
    assert "control, targets shuffled" in told


def test_r10_slow_models_are_left_out(monkeypatch):
    from nbutils.preflight.checks.update import learning

    monkeypatch.setattr(learning, "MAX_STEP_S", 0.0)
    finding = look(Task(mlp(), CE, (X, Y)), "R10")
    assert finding.severity == "skip"
    assert "a step takes" in finding.title


def test_r10_leaves_the_model_as_it_was():
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    look(Task(model, CE, (X, Y)), "R10")
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
