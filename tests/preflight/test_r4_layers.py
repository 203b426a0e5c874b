"""Stacked linear layers, and norms that rest with nothing in them."""

from __future__ import annotations

import pytest
import torch
import torchmetrics
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


class Images(nn.Module):
    def __init__(self, swaps: bool) -> None:
        super().__init__()
        self.swaps, self.conv = swaps, nn.Conv1d(3, 2, 3)

    def forward(self, x):
        x = x.reshape(len(x), 3, 8) if self.swaps else x.transpose(1, 2)
        return self.conv(x).relu().mean(2)


@pytest.mark.parametrize("swaps", [True, False])
def test_r4_reshape_that_swaps_axes_is_told(swaps):
    task = Task(
        Images(swaps),
        nn.CrossEntropyLoss(),
        (torch.randn(64, 8, 3), torch.arange(64) % 2),
    )
    report = preflight(task, on_failure="return", device="cpu")
    finding = next(f for f in report.findings if f.id == "R4")
    assert ("swaps axes" in finding.title) is swaps


def classes(loss, check="R5"):
    x = torch.randn(96, 6)
    y = (torch.arange(96) % 12 == 0).long()  # one in twelve
    report = preflight(
        Task(stack(nn.ReLU()), loss, (x, y)), on_failure="return", device="cpu"
    )
    return next(f for f in report.findings if f.id == check)


def test_r5_inverted_class_weights_are_told():
    rising = nn.CrossEntropyLoss(weight=torch.tensor([0.9, 0.1]))
    assert "inverted" in classes(rising).title
    falling = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 0.9]))
    assert "inverted" not in str(classes(falling))


def test_r5_ignored_class_of_the_head_is_told():
    assert "ignore_index=1" in classes(nn.CrossEntropyLoss(ignore_index=1)).title
    assert "ignore_index" not in classes(nn.CrossEntropyLoss(ignore_index=7)).title


@pytest.mark.parametrize("start", [10, 16])
def test_r1_target_inside_its_window_is_told(start):
    series = torch.randn(300).cumsum(0).unfold(0, 20, 1).clone()
    x, y = series[:, :16], series[:, start : start + 4]
    task = Task(nn.Linear(16, 4), nn.MSELoss(), (x, y))
    report = preflight(task, on_failure="return", device="cpu")
    finding = next(f for f in report.findings if f.id == "R1")
    assert ("lies inside" in finding.title) is (start == 10)


@pytest.mark.parametrize("is_guarded", [True, False])
def test_r4_metric_that_is_nan_on_a_later_batch_is_told(is_guarded):
    def recall(outputs, batch):
        rare = batch[1] == 1
        found = ((outputs.argmax(1) == 1) & rare).sum()
        return float(found / (rare.sum() + (1e-6 if is_guarded else 0)))

    x, y = torch.randn(96, 6), torch.zeros(96).long()
    y[:8] = 1
    task = Task(
        stack(nn.ReLU()),
        nn.CrossEntropyLoss(),
        (x, y),
        (x, y),
        metrics={"rare": recall},
    )
    report = preflight(task, on_failure="return", device="cpu")
    finding = next(f for f in report.findings if f.id == "R4")
    assert ("some batches" in finding.title) is not is_guarded


class RandomDepth(nn.Module):
    def __init__(self, is_drawn: bool) -> None:
        super().__init__()
        self.is_drawn = is_drawn
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(6))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        for number, block in enumerate(self.blocks):
            kept = torch.rand(()) < 0.3 if self.is_drawn else number > 0
            if kept or not self.training:
                x = x + block(x).relu()
        return self.head(x)


def test_r6_blocks_left_out_at_random_are_no_alarm():
    assert found(RandomDepth(is_drawn=True), "R6").severity == "pass"
    assert "no gradient" in found(RandomDepth(is_drawn=False), "R6").title


@pytest.mark.parametrize("flag", [True, False])
def test_s5_branch_that_the_object_never_takes_is_not_read(flag):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.flag = nn.Linear(6, 2), flag

        def forward(self, x):
            if self.flag:
                x = nn.Linear(6, 6)(x)
            return self.body(x)

    x = torch.randn(64, 6)
    task = Task(Net(), nn.CrossEntropyLoss(), (x, (x[:, 0] > 0).long()))
    report = preflight(task, on_failure="return", depth="static", device="cpu")
    finding = next(f for f in report.findings if f.id == "S5")
    assert (finding.severity == "warn") is flag


def test_r4_metric_that_sums_over_the_split_is_not_asked_for_each_batch():
    class Recall(torchmetrics.Metric):
        """Not defined where a class is absent."""

        def __init__(self) -> None:
            super().__init__()
            for name in ("found", "all"):
                self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

        def update(self, outputs, targets) -> None:
            self.found += ((outputs.argmax(1) == 1) & (targets == 1)).sum()
            self.all += (targets == 1).sum()

        def compute(self):
            return self.found / self.all

    x, y = torch.randn(96, 6), torch.zeros(96).long()
    y[:8] = 1
    task = Task(
        stack(nn.ReLU()),
        nn.CrossEntropyLoss(),
        (x, y),
        (x, y),
        metrics={"rare": Recall()},
    )
    report = preflight(task, on_failure="return", device="cpu")
    finding = next(f for f in report.findings if f.id == "R4")
    assert finding.severity == "pass", finding
