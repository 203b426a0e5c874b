"""R4's last part: metrics are tried, and what is monitored is measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbutils.data.task import Task
from nbutils.preflight import preflight


def build(metrics, *, has_val: bool = True) -> Task:
    data = (torch.randn(24, 6), torch.arange(24) % 3)
    return Task(
        nn.Linear(6, 3),
        nn.CrossEntropyLoss(),
        data,
        data if has_val else None,
        metrics=metrics,
    )


def look(task: Task, **settings):
    report = preflight(task, on_failure="return", **settings)
    return next(f for f in report.findings if f.id == "R4")


def accuracy(outputs, batch):
    return (outputs.argmax(1) == batch[1]).float().mean()


def broken(outputs, batch):
    raise ZeroDivisionError("no positives")


FAULTS = {
    "raises": (broken, "no positives"),
    "text": (lambda outputs, batch: "good", "str"),
    "nothing": (lambda outputs, batch: None, "NoneType"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_r4_faulty_metric_fails_by_name(kind):
    metric, text = FAULTS[kind]
    finding = look(build({"accuracy": accuracy, "f1": metric}))
    assert finding.severity == "fail"
    assert finding.title == "metric 'f1' cannot be computed"
    assert text in finding.actual


@pytest.mark.parametrize("has_val", [True, False])
def test_r4_healthy_metrics_pass_with_their_values(has_val):
    finding = look(build({"accuracy": accuracy}, has_val=has_val))
    assert finding.severity == "pass"
    assert "metric 'accuracy' gives a number" in str(finding.details)


def test_r4_one_function_for_all_metrics_is_tried():
    both = build(lambda outputs, batch: {"a": 1.0, "b": accuracy(outputs, batch)})
    assert look(both, monitor="b", mode="max").severity == "pass"
    finding = look(build(broken))
    assert finding.title == "metric 'broken' cannot be computed"


def test_r4_torchmetrics_of_another_form_fails_and_of_this_form_passes():
    torchmetrics = pytest.importorskip("torchmetrics")
    right = torchmetrics.Accuracy("multiclass", num_classes=3)
    assert look(build({"acc": right}), monitor="acc", mode="max").severity == "pass"
    wrong = torchmetrics.Accuracy("binary")
    assert "metric 'acc'" in look(build({"acc": wrong})).title


def test_r4_metric_that_gives_a_dict_fails():
    torchmetrics = pytest.importorskip("torchmetrics")
    several = torchmetrics.MetricCollection(
        [torchmetrics.Accuracy("multiclass", num_classes=3)]
    )
    assert look(build({"acc": several})).severity == "fail"


def test_r4_metric_not_finite_on_one_batch_warns():
    finding = look(build({"r2": lambda outputs, batch: float("nan")}))
    assert finding.severity == "warn"
    assert "r2 = nan" in finding.actual


def test_r4_metric_named_loss_fails():
    finding = look(build({"loss": accuracy}))
    assert "hides the loss" in finding.title


@pytest.mark.parametrize("monitor", ["acuracy", "val_acuracy"])
def test_r4_monitor_that_is_not_measured_fails_with_the_list(monitor):
    finding = look(build({"accuracy": accuracy}), monitor=monitor)
    assert finding.severity == "fail"
    assert monitor in finding.title
    assert finding.expected == "one of train_loss, val_accuracy, val_loss"


def test_r4_monitor_without_validation_data_fails():
    finding = look(build({"accuracy": accuracy}, has_val=False), monitor="accuracy")
    assert finding.severity == "fail"
    assert finding.expected == "one of train_loss"


@pytest.mark.parametrize("monitor", ["accuracy", "val_accuracy", "train_loss"])
def test_r4_monitor_that_is_measured_passes(monitor):
    mode = "min" if "loss" in monitor else "max"
    task = build({"accuracy": accuracy})
    assert look(task, monitor=monitor, mode=mode).severity == "pass"


def test_r4_broken_loss_is_not_blamed_on_a_metric():
    def loss(outputs, batch):
        raise RuntimeError("the loss")

    task = build({"accuracy": accuracy})
    task = Task(task.model, loss, task.train_data, metrics={"accuracy": accuracy})
    assert look(task).severity == "pass"
