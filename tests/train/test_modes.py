"""Layers that rest keep resting, however that was said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nbutils as nb


class Frozen(nn.Module):
    """Keeps BatchNorm in eval mode by the usual ``train()`` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def train(self, mode: bool = True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.head(self.norm(x))


def resting_by_hand() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].eval()
    return model


@pytest.mark.parametrize("make", [Frozen, resting_by_hand])
def test_resting_norm_keeps_its_statistics(make, tmp_path):
    model = make()
    x = 5 + torch.randn(32, 4)
    task = nb.Task(
        model, nn.CrossEntropyLoss(), (x, (x[:, 0] > 5).long()), (x, x[:, 0].long() % 2)
    )
    nb.TrainingCoordinator(
        task, epochs=2, panel="off", runs_dir=str(tmp_path), device="cpu"
    ).train()
    statistics = [b for n, b in model.named_buffers() if n.endswith("running_mean")]
    assert torch.equal(statistics[0], torch.zeros(4))


def test_norm_that_does_not_rest_learns_its_statistics(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    x = 5 + torch.randn(32, 4)
    task = nb.Task(model, nn.CrossEntropyLoss(), (x, (x[:, 0] > 5).long()))
    nb.TrainingCoordinator(
        task, epochs=2, panel="off", runs_dir=str(tmp_path), device="cpu"
    ).train()
    assert model[0].running_mean.abs().min() > 0.1


def test_preflight_lets_a_resting_norm_take_one_sample():
    model = resting_by_hand()
    x = torch.randn(6, 4)
    task = nb.Task(model, nn.CrossEntropyLoss(), (x, torch.tensor([0, 1] * 3)))
    report = nb.preflight(task, batch_size=1, device="cpu", on_failure="return")
    assert not report.failures
    assert not model[0].training


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_model_trains_and_a_refused_window_leaves_its_statistics(tmp_path):
    model = torch.jit.script(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))
    x, y = torch.randn(32, 4), torch.arange(32) % 2
    x[3] = float("nan")
    task = nb.Task(model, nn.CrossEntropyLoss(), (x, y))
    coordinator = nb.TrainingCoordinator(
        task,
        preflight="skip",
        panel="off",
        runs_dir=str(tmp_path),
        device="cpu",
        epochs=1,
        batch_size=8,
        max_refused_fraction=1.0,
    )
    result = coordinator.train()
    assert result.skipped == 1
    assert all(torch.isfinite(t).all() for t in model.state_dict().values())
