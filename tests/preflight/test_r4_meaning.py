"""R4: metrics that do not measure what they say, and monitors that point wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.model import forward
from nbutils.preflight.session import run_checks


def classes(count: int = 40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return x, (x @ torch.randn(6, 3, generator=generator)).argmax(1)


def look(metric, name="accuracy", *, task=None, **settings):
    if task is None:
        task = Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), classes(), classes(30))
    task.metrics = {name: metric} if metric else None
    return run_checks(task, RunConfig(device="cpu", **settings), [forward.CHECK])[0]


def accuracy(outputs, batch):
    return (outputs.argmax(1) == batch[1]).float().mean()


FAULTS = {
    "does not look at the outputs": lambda o, b: (b[1] == b[1]).float().mean() / 2,
    "does not look at the targets": lambda o, b: o.softmax(1).amax(1).mean(),
    "is a count, not a share": lambda o, b: (o.argmax(1) == b[1]).float().sum(),
    "of perfect outputs is not 1": lambda o, b: (o.argmin(1) == b[1]).float().mean(),
}


@pytest.mark.parametrize("title", FAULTS)
def test_r4_metric_that_does_not_measure_warns(title):
    finding = look(FAULTS[title])
    assert finding.severity == "warn"
    assert title in finding.title


def test_r4_metrics_that_measure_pass():
    assert look(accuracy).severity == "pass"
    assert look(lambda o, b: accuracy(o, b) * 100).severity == "pass"
    assert look(lambda o, b: 3.0, "num_layers").severity == "pass"


def binary(threshold: float) -> tuple[Task, object]:
    x, _ = classes()
    data = (x, (x[:, :1] > 0).float())
    task = Task(nn.Linear(6, 1), nn.BCEWithLogitsLoss(), data, data)

    def metric(outputs, batch):
        return ((outputs > threshold) == (batch[1] > 0.5)).float().mean()

    return task, metric


def test_r4_threshold_of_probabilities_on_logits_warns():
    task, metric = binary(0.5)
    assert "takes logits for probabilities" in look(metric, task=task).title
    task, metric = binary(0.0)
    assert look(metric, task=task).severity == "pass"


def test_r4_error_that_broadcasts_warns():
    x, _ = classes()
    task = Task(nn.Linear(6, 1), nn.MSELoss(), (x, x[:, :1]), (x, x[:, :1]))

    def broadcast(outputs, batch):
        return (outputs - batch[1][:, 0]).square().mean()

    finding = look(broadcast, "mse", task=task)
    assert "metric 'mse' of perfect outputs is not 0" in finding.title
    right = look(lambda o, b: (o - b[1]).square().mean(), "mse", task=task)
    assert right.severity == "pass"


@pytest.mark.parametrize(("monitor", "mode"), [("accuracy", "min"), ("loss", "max")])
def test_r4_monitor_that_points_the_wrong_way_warns(monitor, mode):
    finding = look(accuracy, monitor=monitor, mode=mode)
    assert finding.severity == "warn"
    assert "point the wrong way" in finding.title
    other = "max" if mode == "min" else "min"
    assert f"mode={other!r}" in finding.fix
    assert look(accuracy, monitor=monitor, mode=other).severity == "pass"


def test_r4_target_that_is_met_at_once_warns():
    assert "stop at its first" in look(None, target=50.0).title
    assert look(None, target=0.01).severity == "pass"


@pytest.mark.parametrize("what", ["mode", "weights"])
def test_r4_metric_that_changes_the_model_warns(what):
    task = Task(nn.Linear(6, 3), nn.CrossEntropyLoss(), classes(), classes(30))

    def metric(outputs, batch):
        if what == "mode":
            task.model.train()
        else:
            task.model.weight.data.mul_(1.0)
            task.model.weight.mul_(0.5)
        return accuracy(outputs, batch)

    before = task.model.weight.detach().clone()
    assert f"changes the model's {what}" in look(metric, task=task).title
    assert torch.equal(before, task.model.weight)


def test_r4_accuracy_outside_of_its_range_warns():
    finding = look(lambda o, b: -accuracy(o, b) - 1)
    assert "lies outside of its range" in finding.title
