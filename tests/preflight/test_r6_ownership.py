"""R6: weights that the loss reaches and no optimizer owns."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.update import step
from nbutils.preflight.session import run_checks


def data(count: int = 24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 3


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def look(model=None, *, loss=None, train=None, settings=None, **options):
    train = data() if train is None else train
    task = Task(model or net(), loss or nn.CrossEntropyLoss(), train, **options)
    config = RunConfig(device="cpu", **(settings or {}))
    return run_checks(task, config, [step.CHECK])[0]


class Listed(nn.Module):
    """Layers in a list of Python, or of torch."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.layers = kind([nn.Linear(6, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def test_r6_layers_in_a_plain_list_warn_and_in_a_module_list_pass():
    finding = look(Listed(list))
    assert finding.severity == "warn"
    assert "get a gradient but no optimizer owns them" in finding.title
    assert "layers[0].weight" in finding.actual
    assert look(Listed(nn.ModuleList)).severity == "pass"


def test_r6_bare_tensor_as_a_weight_warns():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)
            self.scale = torch.ones(3, requires_grad=True)

        def forward(self, x):
            return self.layer(x) * self.scale

    assert "scale" in look(Scaled()).actual


class Made(nn.Module):
    """Creates its head when it is first called, at each call, or at once."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.first, self.when = nn.Linear(6, 16), when
        self.head = nn.Linear(16, 3) if when == "at once" else None

    def forward(self, x):
        x = self.first(x).relu()
        if self.when == "at each call":
            return nn.Linear(16, 3)(x)
        if self.head is None:
            self.head = nn.Linear(16, 3)
        return self.head(x)


def test_r6_layers_created_in_forward_fail():
    finding = look(Made("late"))
    assert finding.severity == "fail"
    assert "appear after the first forward" in finding.title
    assert "head.weight" in finding.actual
    finding = look(Made("at each call"))
    assert finding.severity == "fail"
    assert "creates 2 new parameters at each call" in finding.title
    assert look(Made("at once")).severity == "pass"


def test_r6_head_outside_of_the_model_warns():
    head = nn.Linear(16, 3)
    finding = look(nn.Linear(6, 16), forward=lambda model, b: head(model(b[0]).relu()))
    assert finding.severity == "warn"
    assert "forward: head.weight" in finding.actual


def test_r6_optimizer_of_a_copy_fails():
    other = copy.deepcopy(net())
    finding = look(make_optimizer=lambda _: torch.optim.SGD(other.parameters(), 0.1))
    assert finding.severity == "fail"
    assert "a copy" in finding.fix


def test_r6_prompt_that_alone_is_trained_only_warns():
    prompt = nn.Parameter(torch.zeros(6))
    finding = look(
        forward=lambda model, b: model(b[0] + prompt),
        make_optimizer=lambda _: torch.optim.SGD([prompt], 0.1),
    )
    assert finding.severity == "warn"


def test_r6_frozen_network_in_the_loss_passes():
    judge = nn.Sequential(nn.Linear(6, 8), nn.ReLU()).eval()
    x = data()[0]
    finding = look(
        nn.Linear(6, 6), train=x, loss=lambda o, b: F.mse_loss(judge(o), judge(b[0]))
    )
    assert finding.severity == "pass"
    assert "taken to rest" in str(finding.details)


def test_r6_points_at_which_a_loss_differentiates_pass():
    points = torch.rand(32, 1, requires_grad=True)
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(outputs, batch):
        value = model(points)
        slope = torch.autograd.grad(value.sum(), points, create_graph=True)[0]
        return (slope + value).square().mean() + F.mse_loss(outputs, batch[1])

    x = torch.rand(32, 1, generator=torch.Generator().manual_seed(0))
    assert look(model, loss=loss, train=(x, (-x).exp())).severity == "pass"


class Experts(nn.Module):
    """Each sample goes to one expert; the last ones are never chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(6))
        self.router.bias.data[4:] = -50

    def forward(self, x):
        share, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mask = chosen == number
            if mask.any():
                out[mask] = expert(x[mask]) * share[mask, None]
        return self.head(x + out)


def test_r6_idle_experts_pass_and_a_forgotten_layer_warns():
    finding = look(Experts())
    assert finding.severity == "pass"
    assert "not chosen by these batches" in str(finding.details)

    class Forgetful(Listed):
        def forward(self, x):
            return self.head(self.layers[0](x).relu())

    finding = look(Forgetful(nn.ModuleList))
    assert finding.severity == "warn"
    assert "layers.1.weight" in finding.actual


def test_r6_group_without_a_rate_warns_unless_declared():
    def make(model):
        frozen = {"params": model[0].parameters(), "lr": 0.0}
        return torch.optim.SGD([frozen, {"params": model[2].parameters()}], 0.1)

    finding = look(make_optimizer=make)
    assert "learning rate of 0 for the whole run" in finding.title
