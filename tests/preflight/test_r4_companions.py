"""R4: samples that see each other, and models that mix a batch on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.model import forward
from nbutils.preflight.session import run_checks


class Net(nn.Module):
    """Modules by name, and a function that uses them."""

    def __init__(self, function, **modules) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def look(model, x, y=None, **settings):
    y = torch.arange(len(x)) % 3 if y is None else y
    declares = settings.pop("declares", ())
    task = Task(model, nn.CrossEntropyLoss(), (x, y), declares=declares)
    return run_checks(task, RunConfig(device="cpu", **settings), [forward.CHECK])[0]


def rows(count: int = 24):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


def series(count: int = 24):
    return torch.randn(count, 7, 4, generator=torch.Generator().manual_seed(0))


def softmax_over(axis: int) -> nn.Module:
    return Net(
        lambda net, x: net.last(net.first(x).softmax(axis) * 9),
        first=nn.Linear(6, 16),
        last=nn.Linear(16, 3),
    )


def test_r4_softmax_over_the_batch_fails_and_over_features_passes():
    finding = look(softmax_over(0), rows())
    assert finding.severity == "fail"
    assert "companions" in finding.title
    assert look(softmax_over(1), rows()).severity == "pass"
    declared = look(softmax_over(0), rows(), declares=("samples interact",))
    assert declared.severity == "pass"


def recurrent(batch_first: bool) -> nn.Module:
    return Net(
        lambda net, x: net.head(net.cell(x)[0][:, -1]),
        cell=nn.LSTM(4, 16, batch_first=batch_first),
        head=nn.Linear(16, 3),
    )


def test_r4_batch_read_as_time_is_named_and_batch_first_passes():
    finding = look(recurrent(False), series())
    assert finding.severity == "fail"
    assert "'cell' reads the batch as time" in finding.title
    assert "batch_first=True" in finding.fix
    assert look(recurrent(True), series()).severity == "pass"


def test_r4_time_series_in_its_own_order_only_warns():
    finding = look(recurrent(False), series(), shuffle=False)
    assert finding.severity == "warn"


def test_r4_attention_over_the_batch_only_warns():
    def attend(net, x):
        scores = net.query(x) @ net.key(x).T
        return net.head(x + scores.softmax(-1) @ net.value(x))

    parts = {name: nn.Linear(6, 6) for name in ("query", "key", "value")}
    finding = look(Net(attend, head=nn.Linear(6, 3), **parts), rows())
    assert finding.severity == "warn"
    assert "each sample is compared with each" in finding.actual


def test_r4_batch_norm_without_statistics_only_warns_by_name():
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    finding = look(nn.Sequential(nn.Linear(6, 8), norm, nn.Linear(8, 3)), rows())
    assert finding.severity == "warn"
    assert "'1' keeps no running statistics" in finding.actual


@pytest.mark.parametrize("has_leak", [True, False])
def test_r4_stream_is_judged_by_moving_its_rows(has_leak):
    class Stream(IterableDataset):
        def __iter__(self):
            x = rows()
            return iter([(x[i], i % 3) for i in range(24)])

    def use(net, x):
        return net.head(x - x.mean(0) if has_leak else x)

    task = Task(Net(use, head=nn.Linear(6, 3)), nn.CrossEntropyLoss(), Stream())
    finding = run_checks(task, RunConfig(device="cpu"), [forward.CHECK])[0]
    assert finding.severity == ("warn" if has_leak else "pass")


def test_r4_mixing_in_train_mode_alone_is_told_and_passes():
    def mix(net, x):
        return net.head(0.7 * x + 0.3 * x.flip(0) if net.training else x)

    finding = look(Net(mix, head=nn.Linear(6, 3)), rows())
    assert finding.severity == "pass"
    assert "samples interact in train mode" in str(finding.details)
