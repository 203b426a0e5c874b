"""R10, R6, R1: targets out of reach, schedules apart, readers that write."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import Dataset

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight import preflight
from nbutils.preflight.checks.data import samples as r1
from nbutils.preflight.checks.update import step as r6
from nbutils.preflight.session import run_checks

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(160, 4, generator=DRAW)
Y = (X[:, :1] + 3) * 1.0


@pytest.mark.parametrize(
    ("unit", "settings", "is_told"),
    [
        (1e5, {"epochs": 4}, True),
        (1.0, {"epochs": 4}, False),
        (1e5, {"epochs": 4, "lr": 1e4}, False),  # an odd rate, which reaches them
    ],
)
def test_r10_targets_out_of_reach_are_told(unit, settings, is_told):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    task = Task(model, nn.MSELoss(), (X, unit * Y))
    report = preflight(task, on_failure="return", device="cpu", **settings)
    told = [f.title for f in report.findings if f.severity == "warn"]
    assert any("out of reach" in title for title in told) == is_told, told


@pytest.mark.parametrize("is_other", [True, False])
def test_r6_schedule_of_another_optimizer_is_told(is_other):
    def make_schedule(optimizer, planned_steps):
        if is_other:
            optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        return lr_scheduler.CosineAnnealingLR(optimizer, planned_steps)

    task = Task(nn.Linear(4, 1), nn.MSELoss(), (X, Y), make_schedule=make_schedule)
    found = run_checks(task, RunConfig().replace(device="cpu"), [r6.CHECK])[0]
    assert ("moves another optimizer" in found.title) == is_other


def test_r6_cosine_that_comes_back_by_rounding_is_told():
    def make_schedule(optimizer, planned_steps):
        return lr_scheduler.CosineAnnealingLR(optimizer, planned_steps // 8)

    task = Task(nn.Linear(4, 1), nn.MSELoss(), (X, Y), make_schedule=make_schedule)
    config = RunConfig().replace(device="cpu", epochs=20, lr=0.3)
    found = run_checks(task, config, [r6.CHECK])[0]
    assert "turns up again" in found.title


class Tenths(Dataset):
    def __init__(self, writes):
        self.rows, self.writes = X.clone(), writes

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return (row.div_(10) if self.writes else row / 10), Y[index]


@pytest.mark.parametrize("writes", [True, False])
def test_r1_reader_that_writes_into_its_data_is_told(writes):
    data = Tenths(writes)
    task = Task(nn.Linear(4, 1), nn.MSELoss(), data)
    found = run_checks(task, RunConfig().replace(device="cpu"), [r1.CHECK])[0]
    assert ("changes it in place" in found.title) == writes
    if not writes:
        assert torch.equal(data.rows, X)


class Carried(nn.Module):
    """Keeps its hidden state from batch to batch."""

    def __init__(self, detaches):
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 8), nn.Linear(8, 1)
        self.state, self.detaches = None, detaches

    def forward(self, x):
        state = self.cell(x, self.state)
        self.state = state.detach() if self.detaches else state
        return self.head(state)


@pytest.mark.parametrize("detaches", [True, False])
def test_r6_graph_that_is_kept_between_updates_fails(detaches):
    task = Task(Carried(detaches), nn.MSELoss(), (X, Y))
    config = RunConfig().replace(device="cpu", batch_size=32)
    found = run_checks(task, config, [r6.CHECK])[0]
    assert ("the backward pass fails in update 2" in found.title) != detaches
    assert (found.severity == "fail") != detaches
