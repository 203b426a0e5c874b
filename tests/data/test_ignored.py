"""Settings without an effect are told; label smoothing has one where it can."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import nbutils as nb
from nbutils.data.ignored import ignored_settings
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same

LOSSES: dict[str, Any] = {
    "module": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
    "function": functional.cross_entropy,
    "partial": functools.partial(functional.cross_entropy, reduction="mean"),
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(16, 4), torch.randint(3, (16,))


def task_of(loss: Any) -> nb.Task:
    x, y = data()
    torch.manual_seed(2)
    return nb.Task(nn.Linear(4, 3), loss, (x, y), (x, y))


def train(task: nb.Task, **options: Any) -> Any:
    quiet = {"preflight": "skip", "panel": "off", "device": "cpu"}
    run = nb.TrainingCoordinator(task, epochs=2, batch_size=8, **quiet, **options)
    return run.train()


def own(outputs: Any, batch: Any) -> Any:
    return functional.cross_entropy(outputs, batch[1])


@pytest.mark.parametrize("name", list(LOSSES))
def test_label_smoothing_reaches_torchs_cross_entropy(name: str) -> None:
    loss = LOSSES[name]
    weight = getattr(loss, "weight", None)
    theirs = functools.partial(
        functional.cross_entropy, weight=weight, label_smoothing=0.2
    )
    ours, reference = task_of(loss), task_of(theirs)
    result = train(ours, label_smoothing=0.2)
    expected = train(reference)
    assert_same(ours.model.state_dict(), reference.model.state_dict())
    assert result.metrics["val_loss"] == expected.metrics["val_loss"]
    assert ours.loss is loss
    plain = task_of(loss)
    train(plain)
    assert not torch.equal(plain.model.weight, ours.model.weight)


def test_label_smoothing_is_off_again_with_the_next_config() -> None:
    task = task_of(nn.CrossEntropyLoss())
    x, y = data()
    outputs = task.model(x)
    before = task.loss_terms(outputs, (x, y))["loss"]
    assert task.smooth_labels(0.3)
    assert task.loss_terms(outputs, (x, y))["loss"] != before
    assert task.smooth_labels(0.0)
    assert task.loss_terms(outputs, (x, y))["loss"] == before


@pytest.mark.parametrize("loss", [own, nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_label_smoothing_that_cannot_be_applied_is_told(loss: Any) -> None:
    result = train(task_of(loss), label_smoothing=0.2)
    texts = [
        e["text"] for e in read_events(result.run_dir / "events.jsonl") if "text" in e
    ]
    assert [text for text in texts if "label_smoothing=0.2 has no effect" in text]


def test_settings_of_recipes_are_told_on_a_task_made_by_hand() -> None:
    config = nb.RunConfig(val_fraction=0.5, max_samples=5)
    told = ignored_settings(task_of(own), config)
    assert len(told) == 2
    assert "max_samples has no effect" in told[0]
    assert "give val_data to the task" in told[1]


@pytest.mark.parametrize(
    "config", [nb.RunConfig(), nb.RunConfig.preset("vision/quick")]
)
def test_defaults_and_presets_are_not_told(config: nb.RunConfig) -> None:
    assert ignored_settings(task_of(own), config) == []


def test_settings_changed_after_a_recipe_built_the_task_are_told() -> None:
    task = task_of(own)
    task.config = nb.RunConfig(drop_rate=0.1)
    told = ignored_settings(task, task.config.replace(drop_rate=0.3, epochs=3))
    assert told == [
        "drop_rate is 0.3, and the task was built with 0.1: it has no effect any more. "
        "Build the task anew: nb.build_task(config)."
    ]
