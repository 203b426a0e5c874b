"""S3: settings against each other, the data and the task, beside healthy twins."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from nbutils.config import RunConfig
from nbutils.data.task import Task
from nbutils.preflight.checks.static import contradictions
from nbutils.preflight.checks.static.monitored import better
from nbutils.preflight.session import run_checks


def pairs(count: int = 24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 3


def net(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def accuracy(outputs, batch):
    return (outputs.argmax(1) == batch[1]).float().mean()


def task(**changes) -> Task:
    given = {
        "model": net(), "loss": nn.CrossEntropyLoss(), "train_data": pairs(),
        "val_data": pairs(9), "metrics": {"accuracy": accuracy},
    }  # fmt: skip
    return Task(**{**given, **changes})


def look(changes: dict, depth: str = "static", **settings):
    """The finding of S3; ``changes`` to the task, settings to the config."""
    config = RunConfig(**{"batch_size": 8, **settings})
    return run_checks(task(**changes), config, [contradictions.CHECK], depth)[0]


FAULTS = {
    "warm-up never ends": ("fail", "the warm-up never ends", {"warmup_steps": 30}),
    "long warm-up": ("warn", "the warm-up takes 90%", {"warmup_steps": 27}),
    "flat": ("warn", "it is constant", {"schedule": "cosine", "min_lr": 1e-3}),
    "accumulation": ("warn", "one update an epoch", {"accumulation": 16}),
    "no save": (
        "warn", "no checkpoint is saved",
        {"save_every_steps": 1000, "save_every_epochs": None},
    ),
    "left out": (
        "warn", "leaves out the same 8 of 24",
        {"batch_size": 16, "drop_last": True, "shuffle": False},
    ),
    "empty": ("fail", "no training batch", {"batch_size": 64, "drop_last": True}),
    "worst is best": ("warn", "the worst weights", {"monitor": "val_accuracy"}),
    "loss up": ("warn", "the worst weights", {"monitor": "val_loss", "mode": "max"}),
    "adam lr": ("warn", "far too large for adamw", {"lr": 0.3}),
    "tiny lr": ("warn", "too small to move", {"lr": 1e-9}),
    "sgd lr": ("warn", "far too large for sgd", {"lr": 30.0, "optimizer": "sgd"}),
    "decay": ("warn", "weight_decay = 5", {"weight_decay": 5.0}),
    "decay of adam": (
        "warn", "weight_decay = 0.5", {"weight_decay": 0.5, "optimizer": "adam"},
    ),
    "betas": ("warn", "look swapped", {"betas": (0.999, 0.9)}),
    "momentum": ("warn", "momentum = 0.9999", {"momentum": 0.9999, "optimizer": "sgd"}),
    "clip": ("warn", "clip_norm = 1e-06", {"clip_norm": 1e-6}),
    "clip value": ("warn", "clip_value = 1e-08", {"clip_value": 1e-8}),
    "smoothing": ("warn", "label_smoothing = 0.9", {"label_smoothing": 0.9}),
    "ignored": ("warn", "drop_rate has no effect", {"drop_rate": 0.3}),
}  # fmt: skip

HEALTHY = {
    "defaults": {},
    "warm-up": {"warmup_steps": 6, "schedule": "cosine", "min_lr": 1e-5},
    "onecycle": {"schedule": "onecycle", "warmup_steps": 9},
    "accumulation": {"accumulation": 3},
    "saves": {"save_every_steps": 1000},
    "full batch": {"batch_size": 64},
    "left out": {"batch_size": 16, "drop_last": True},
    "left out in order": {"batch_size": 23, "drop_last": True, "shuffle": False},
    "best": {"monitor": "val_accuracy", "mode": "max", "target": 0.99},
    "percent": {"monitor": "accuracy", "mode": "max", "patience": 30},
    "score": {"monitor": "val_score"},
    "sgd": {"optimizer": "sgd", "lr": 1.0, "momentum": 0.99},
    "gan betas": {"betas": (0.0, 0.9)},
    "grokking": {"weight_decay": 1.0},
    "clip": {"clip_norm": 0.1},
    "smoothing": {"label_smoothing": 0.1},
    "short": {"max_steps": 2},
    "fine-tuning": {"lr": 1e-6},
}


@pytest.mark.parametrize("name", FAULTS)
def test_contradiction_is_named_with_its_numbers(name):
    severity, text, settings = FAULTS[name]
    finding = look({}, **settings)
    assert (finding.severity, text in finding.title) == (severity, True), finding.title
    assert (
        any(letter.isdigit() for letter in finding.actual) or "mode" in finding.actual
    )
    assert finding.expected
    assert finding.fix


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_settings_stay_green(name):
    finding = look({}, **HEALTHY[name])
    assert (finding.severity, finding.actual) == ("pass", "")


def test_linear_model_may_take_large_steps():
    assert look({"model": nn.Linear(6, 3)}, lr=0.1).severity == "pass"


def test_monitor_of_validation_without_validation_data_is_refused():
    settings = {"monitor": "val_accuracy", "mode": "max"}
    finding = look({"val_data": None}, **settings)
    assert finding.severity == "fail"
    assert "no validation data" in finding.title
    assert look({"val_data": None}).severity == "pass"


def test_target_in_per_cent_is_never_reached():
    settings = {"monitor": "val_accuracy", "mode": "max"}
    finding = look({}, "standard", target=95.0, **settings)
    assert finding.severity == "warn"
    assert "target=0.95" in finding.fix
    assert look({}, "standard", target=0.95, **settings).severity == "pass"

    def percent(outputs, batch):
        return 100 * accuracy(outputs, batch) + 2

    changes = {"metrics": {"accuracy": percent}}
    assert look(changes, "standard", target=95.0, **settings).severity == "pass"


def test_target_that_is_met_at_once_is_named():
    finding = look({}, "standard", target=100.0)
    assert "the untrained model meets the target" in finding.title
    assert look({}, "standard", target=0.01).severity == "pass"


def test_own_optimizer_is_judged_by_its_groups():
    def large(model):
        return torch.optim.Adam(model.parameters(), lr=1.5)

    def small(model):
        return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)

    assert "lr = 1.5" in look({"make_optimizer": large}, "standard").title
    assert look({"make_optimizer": small}, "standard").severity == "pass"
    assert look({"make_optimizer": large}, "static").severity == "pass"


def test_settings_that_a_function_overrules_are_named():
    def make(model):
        return torch.optim.SGD(model.parameters(), lr=0.5)

    def schedule(optimizer, steps):
        return torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=steps)

    given = {"make_optimizer": make}
    finding = look(given, "standard", lr=0.01)
    assert "lr has no effect: make_optimizer decides" in finding.title
    assert look(given, "standard", lr=0.5).severity == "pass"
    finding = look({"make_schedule": schedule}, schedule="cosine")
    assert "schedule has no effect: make_schedule decides" in finding.title
    assert look({"make_schedule": schedule}, lr=0.01).severity == "pass"


def test_negative_weight_is_named_and_a_zero_one_told():
    finding = look({"loss_weights": {"kl": -1.0}})
    assert "a negative loss weight" in finding.title
    finding = look({"loss_weights": {"kl": 0.0}})
    assert finding.severity == "pass"
    assert ("term kl", "weight 0: switched off") in finding.details


def test_streams_and_odd_lengths_are_no_contradiction():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.zeros(6), torch.tensor(0))] * 8)

    class Broken(Dataset):
        def __len__(self):
            raise RuntimeError("no index file")

        def __getitem__(self, index):
            return torch.zeros(6), 0

    assert look({"train_data": Stream()}, max_steps=5).severity == "pass"
    finding = look({"train_data": DataLoader(TensorDataset(*pairs()), 4)})
    assert finding.severity == "pass"
    made = task()
    made.train_data = Broken()
    found = run_checks(made, RunConfig(), [contradictions.CHECK], "static")[0]
    assert found.severity == "pass"


def test_names_of_metrics_tell_which_way_is_better():
    assert [better(n) for n in ("val_auc", "F1", "top-5_error", "valRMSE", "elbo")] == [
        "max", "max", "min", "min", "",
    ]  # fmt: skip
    assert better("neg_mean_squared_error") == ""
