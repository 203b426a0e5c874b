"""R6: state that no checkpoint holds, and graphs that pile up."""

from __future__ import annotations

import copy
from collections import deque

import torch
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.update import step
from nbutils.preflight.session import run_checks


def look(model, loss=None):
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)) + 3
    task = Task(model, loss or nn.CrossEntropyLoss(), (x, torch.arange(24) % 3))
    before = copy.deepcopy(model.state_dict())
    finding = run_checks(task, RunConfig(device="cpu"), [step.CHECK])[0]
    assert str(model.state_dict()) == str(before)
    return finding


class Centred(nn.Module):
    """Subtracts a running mean that it keeps as a tensor, or as a buffer."""

    def __init__(self, *, is_buffer: bool, **options) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        if is_buffer:
            self.register_buffer("mean", torch.zeros(6), **options)
        else:
            self.mean = torch.zeros(6)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.layer(x - self.mean)


def test_r6_running_statistics_in_no_state_dict_warn_by_name():
    for model in (
        Centred(is_buffer=False),
        Centred(is_buffer=True, persistent=False),
    ):
        finding = look(model)
        assert finding.severity == "warn"
        assert "not in its state dict" in finding.title
        assert "mean" in finding.actual
        assert torch.equal(model.mean, torch.zeros(6))
    assert look(Centred(is_buffer=True)).severity == "pass"


def test_r6_extra_state_counts_as_saved():
    class Extra(Centred):
        def get_extra_state(self):
            return {"mean": self.mean}

        def set_extra_state(self, state):
            self.mean = state["mean"]

    assert look(Extra(is_buffer=False)).severity == "pass"


def test_r6_caches_and_counters_pass():
    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls, self.last = nn.Linear(6, 3), 0, None
            self.sizes: list[int] = []
            self.recent = deque(maxlen=2)

        def forward(self, x):
            self.calls += 1
            self.last = self.layer(x)
            self.sizes.append(len(x))
            self.recent.append(self.last)
            return self.last

    assert look(Noting()).severity == "pass"


def test_r6_list_of_graphs_that_grows_warns_and_of_numbers_passes():
    class Hoarding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.kept = nn.Linear(6, 3), []

        def forward(self, x):
            out = self.layer(x)
            self.kept.append(out)
            return out

    finding = look(Hoarding())
    assert "memory leak" in finding.title
    assert "kept" in finding.actual
    history = []

    def loss(outputs, batch):
        value = nn.functional.cross_entropy(outputs, batch[1])
        history.append(value)
        return value

    assert "loss: history" in look(nn.Linear(6, 3), loss).actual

    def tidy(outputs, batch):
        value = nn.functional.cross_entropy(outputs, batch[1])
        history.append(value.item())
        return value

    assert look(nn.Linear(6, 3), tidy).severity == "pass"
