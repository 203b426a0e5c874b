"""R6: dead, saturated, equal and deaf layers, and healthy ones that look alike."""

from __future__ import annotations

import torch
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.update import step
from nbutils.preflight.session import run_checks


def data(scale: float = 1.0):
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
    return x * scale, torch.arange(48) % 3


def look(model, scale: float = 1.0):
    task = Task(model, nn.CrossEntropyLoss(), data(scale))
    return run_checks(task, RunConfig(device="cpu"), [step.CHECK])[0]


def net(activation=None, width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width), activation or nn.ReLU(), nn.Linear(width, 3)
    )


def test_r6_dead_layer_warns_by_name_and_a_live_one_passes():
    model = net()
    model[0].bias.data.fill_(-100)
    finding = look(model)
    assert finding.severity == "warn"
    assert "dead ReLU layers" in finding.title
    assert "1 (32 units)" in finding.actual
    assert look(net()).severity == "pass"


def test_r6_saturated_layer_warns_and_scaled_data_pass():
    finding = look(net(nn.Tanh()), scale=1e3)
    assert "saturated tanh" in finding.title
    assert look(net(nn.Tanh())).severity == "pass"


def test_r6_closed_gate_passes():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.body, self.head = (
                nn.Linear(6, 6),
                nn.Linear(6, 6),
                nn.Linear(6, 3),
            )
            nn.init.constant_(self.gate.bias, -25.0)

        def forward(self, x):
            return self.head(x + self.gate(x).sigmoid() * self.body(x))

    assert look(Gated()).severity == "pass"


def test_r6_equal_units_warn_and_zeros_at_the_head_pass():
    model = net()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    finding = look(model)
    assert "symmetric initialisation" in finding.title
    assert "0 (32 units)" in finding.actual
    model = net()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    assert look(model).severity == "pass"


def test_r6_fading_gradients_warn_and_residual_paths_pass():
    torch.manual_seed(0)

    class Deep(nn.Module):
        def __init__(self, *, residual: bool) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(16))
            self.residual = residual

        def forward(self, x):
            x = self.first(x)
            for layer in self.layers:
                new = layer(x).sigmoid()
                x = x + new if self.residual else new
            return self.head(x)

    assert "vanishing gradients" in look(Deep(residual=False)).title
    assert "vanishing gradients" not in str(look(Deep(residual=True)))


def test_r6_dropout_of_nearly_everything_warns():
    finding = look(net().append(nn.Identity()).insert(2, nn.Dropout(0.98)))
    assert "2 (p=0.98)" in finding.actual
    assert look(net().insert(2, nn.Dropout(0.9))).severity == "pass"


def test_r6_input_that_is_ignored_warns():
    class Blind(nn.Module):
        def __init__(self, *, is_blind: bool) -> None:
            super().__init__()
            self.net, self.is_blind = net(), is_blind

        def forward(self, x):
            return self.net(torch.ones_like(x) if self.is_blind else x)

    finding = look(Blind(is_blind=True))
    assert finding.severity == "warn"
    assert "ignores its input" in finding.title
    assert look(Blind(is_blind=False)).severity == "pass"


def test_r6_field_that_changes_nothing_is_told():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, batch):
            return self.layer(batch[0])

    x, y = data()
    loss = nn.CrossEntropyLoss()
    task = Task(
        Two(),
        lambda outputs, batch: loss(outputs, batch[2]),
        (x, x * 2, y),
        forward=lambda model, batch: model(batch[:2]),
    )
    finding = run_checks(task, RunConfig(device="cpu"), [step.CHECK])[0]
    assert finding.severity == "pass"
    assert ("inputs that change no output", "input 0.1") in finding.details
