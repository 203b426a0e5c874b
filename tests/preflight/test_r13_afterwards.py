"""R13 and R16: what comes after training, and what is told on the way."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.run import afterwards, artifacts, telemetry
from nbutils.preflight.session import run_checks


def data(count: int = 24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 3


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def task(**changes) -> Task:
    given = {"model": net(), "loss": nn.CrossEntropyLoss(), "train_data": data()}
    return Task(**{**given, "val_data": data(9), **changes})


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """No exporters, which cost seconds."""
    monkeypatch.setattr(artifacts, "MAX_PARAMETERS", {})


def look(built: Task, check=afterwards.CHECK, **settings):
    config = (built.config or RunConfig()).replace(**settings)
    return run_checks(built, config, [check], "rehearsal")[0]


def accuracy(outputs, batch):
    return (outputs.argmax(1) == batch[1]).float().mean()


def test_r13_healthy_task_passes():
    finding = look(task(test_data=data(7), metrics={"acc": accuracy}), batch_size=4)
    assert finding.severity == "pass"
    details = dict(finding.details)
    assert "acc" in details["test, after 3 steps"]
    assert "float32" in details["run.predict"]
    assert ("pass", "reloaded weights give the same numbers") in finding.details


def full_house(outputs, batch):
    """A report of a fixed number of classes, as scikit-learn makes one."""
    if len(batch[1].unique()) < 3:
        raise ValueError("Number of classes does not match size of target_names")
    return accuracy(outputs, batch)


@pytest.mark.parametrize("split", ["val_data", "test_data"])
def test_r13_metric_that_crashes_on_the_last_batch_fails(split):
    built = task(metrics={"report": full_house}, **{split: data(13)})
    finding = look(built, batch_size=6)
    assert finding.severity == "fail"
    assert f"evaluating '{split[:-5]}' fails" in finding.title
    assert "Number of classes" in finding.actual
    assert "batch 2" in finding.actual  # of one sample
    twin = task(metrics={"report": accuracy}, **{split: data(13)})
    assert look(twin, batch_size=6).severity == "pass"


def test_r13_metric_that_needs_every_class_in_a_batch_warns():
    finding = look(task(metrics={"report": full_house}), batch_size=9)
    assert finding.severity == "warn"
    assert "a batch holds one class only" in finding.title


def precision(outputs, batch):
    """Divides by the number of positive answers, of which there may be none."""
    found = (outputs.argmax(1) == 1).sum().item()
    right = ((outputs.argmax(1) == 1) & (batch[1] == 1)).sum().item()
    return right / found


def guarded(outputs, batch):
    found = (outputs.argmax(1) == 1).sum()
    right = ((outputs.argmax(1) == 1) & (batch[1] == 1)).sum()
    return right / found.clamp(min=1)


def test_r13_metric_that_divides_by_zero_when_the_model_collapses_warns():
    model = net()
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    finding = look(task(model=model, metrics={"precision": precision}))
    assert finding.severity == "warn"
    assert "the model answers class 0 for every sample" in finding.title
    assert "ZeroDivisionError" in finding.actual
    twin = task(model=model, metrics={"precision": guarded})
    assert look(twin).severity == "pass"


def test_r13_metrics_of_other_forms_are_left_alone():
    x = torch.randn(20, 6)
    built = task(
        model=nn.Linear(6, 1),
        loss=lambda outputs, batch: F.mse_loss(outputs.squeeze(1), batch[1]),
        train_data=(x, x.sum(1)),
        val_data=(x, x.sum(1)),
        metrics={"mae": lambda o, b: (o.squeeze(1) - b[1]).abs().mean()},
    )
    assert look(built).severity == "pass"


def test_r13_test_data_without_labels_warns_only():
    finding = look(task(test_data=torch.randn(8, 6)))
    assert finding.severity == "warn"
    assert "another form" in finding.fix


class Drifting(nn.Module):
    """Scales by a running average; ``kept``: in a buffer, which is saved."""

    def __init__(self, *, kept: bool) -> None:
        super().__init__()
        self.net = net()
        if kept:
            self.register_buffer("scale", torch.ones(()))
        else:
            self.scale = torch.ones(())

    def forward(self, x):
        if self.training:
            self.scale.mul_(1.3)
        return self.net(x) * self.scale


def test_r13_state_that_is_not_saved_gives_other_numbers():
    finding = look(task(model=Drifting(kept=False)))
    assert finding.severity == "warn"
    assert "reloaded weights give other numbers" in finding.title
    assert "register_buffer" in finding.fix
    assert look(task(model=Drifting(kept=True))).severity == "pass"


def test_r13_loss_with_weights_of_its_own_reloads():
    class Balance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, outputs, batch):
            loss = F.cross_entropy(outputs, batch[1])
            return loss * (-self.log_scale).exp() + self.log_scale

    balance = Balance()

    def optimizer(model):
        return torch.optim.SGD([*model.parameters(), *balance.parameters()], 0.5)

    assert look(task(loss=balance, make_optimizer=optimizer)).severity == "pass"


def test_r13_export_is_tried_where_a_model_is_small(monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_PARAMETERS", {"torch_export": 1000})
    finding = look(task())
    assert dict(finding.details)["export as torch_export"].startswith("works")


# -- R16 ---------------------------------------------------------------------------


def hear(built: Task, **settings):
    return look(built, telemetry.CHECK, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 4, "accumulation": 2},
        {"warmup_steps": 3, "schedule": "cosine"},
        {"ema_decay": 0.9, "save_in_background": False},
    ],
)
def test_r16_healthy_run_tells_everything(settings):
    finding = hear(task(metrics={"acc": accuracy}), **settings)
    assert finding.severity == "pass", finding
    assert finding.actual.startswith("on_fit_start on_epoch_start on_step_end")
    details = dict(finding.details)
    assert "epoch/val_acc" in details["numbers for a tracker"]


def test_r16_package_of_the_tracker_that_is_absent_fails(monkeypatch):
    monkeypatch.setitem(telemetry.PACKAGES, "wandb", "no_such_package_at_all")
    finding = hear(task(), tracker="wandb")
    assert finding.severity == "fail"
    assert "pip install" in finding.fix
    assert hear(task(), tracker="none").severity == "pass"


def test_r16_errors_that_reach_nobody_warn():
    root = logging.getLogger()
    handlers = list(root.handlers)
    silent = logging.StreamHandler()
    silent.addFilter(lambda record: record.levelno < logging.ERROR)
    root.handlers[:] = [silent]
    try:
        finding = hear(task())
    finally:
        root.handlers[:] = handlers
    assert finding.severity == "warn"
    assert "reach nobody" in finding.title


def test_r16_logging_that_is_disabled_warns():
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        finding = hear(task())
    finally:
        logging.disable(before)
    assert finding.severity == "warn"
    assert "disabled" in finding.actual
