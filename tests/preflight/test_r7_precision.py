"""R7: half precision against fp32, and an update that must be refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.model import precision
from nbutils.preflight.session import run_checks


def look(model, kind: str = "bf16", **options):
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    task = Task(model, nn.CrossEntropyLoss(), (x, torch.arange(32) % 3), **options)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = RunConfig(device="cpu", precision=kind)
    finding = run_checks(task, config, [precision.CHECK])[0]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return finding


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(16, 3))


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_r7_healthy_model_passes_in_each_format(kind):
    finding = look(net(), kind)
    assert finding.severity == "pass", finding
    assert "an overflow is refused" in str(finding.details)
    assert f"precision='{kind}'" in str(finding.details)


class Scaled(nn.Module):
    def __init__(self, *, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.scale, self.shift = scale, shift

    def forward(self, x):
        x = self.first(x) + self.shift
        x = (x - x.mean(1, keepdim=True)) * self.scale
        return self.last(x * x) / self.scale**2


def test_r7_overflow_of_fp16_fails_with_the_module_and_bf16_passes():
    finding = look(Scaled(scale=2e3), "fp16")
    assert finding.severity == "fail"
    assert "fp16 overflows where fp32 does not" in finding.title
    assert "'last' (Linear)" in finding.actual
    assert look(Scaled(scale=2e3), "bf16").severity == "pass"


def test_r7_lost_digits_warn():
    finding = look(Scaled(scale=1.0, shift=1000.0))
    assert finding.severity == "warn"
    assert "bf16 gives another result than fp32" in finding.title
    assert look(Scaled(scale=1.0)).severity == "pass"


def test_r7_random_outputs_are_no_fault_of_the_format():
    class Noisy(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            return out + torch.randn_like(out)

    assert look(Noisy(6, 3)).severity == "pass"


def test_r7_weights_in_fp16_warn():
    x = torch.randn(32, 6).half()
    task = Task(
        nn.Linear(6, 3).half(),
        lambda outputs, batch: nn.functional.cross_entropy(outputs.float(), batch[1]),
        (x, torch.arange(32) % 3),
    )
    finding = run_checks(task, RunConfig(device="cpu"), [precision.CHECK])[0]
    assert finding.severity == "warn"
    assert "kept in fp16" in finding.title


def test_r7_optimizer_that_moves_by_itself_fails():
    class Restless(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.add_(1.0)
            super().zero_grad(set_to_none)

    finding = look(net(), make_optimizer=lambda m: Restless(m.parameters(), 0.1))
    assert finding.severity == "fail"
    assert "an overflow reaches the weights" in finding.title
