"""What a task brings along: optimizer, schedule, metrics, mode and outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights
from nbutils.train.optim import build_optimizer
from nbutils.train.schedule import build_schedule

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "preflight": "skip"}


class StopAt(nb.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            state.request_stop("enough")


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda m: [adam(m), adam(m)], "a list of 2; one optimizer is expected"),
        (lambda m: None, r"returned None \(NoneType\); a torch.optim.Optimizer"),
        (lambda m: "adam", r"returned 'adam' \(str\)"),
        (lambda m: torch.optim.LBFGS(m.parameters()), "LBFGS.step needs a closure"),
    ],
)
def test_make_optimizer_unusable_result_raises(make: Any, text: str) -> None:
    task = make_task(make_optimizer=make)
    with pytest.raises(nb.ConfigError, match=text):
        build_optimizer(task.model, nb.RunConfig(), task)


def test_make_schedule_returning_nothing_raises() -> None:
    task = make_task(make_schedule=lambda optimizer, planned_steps: None)
    with pytest.raises(nb.ConfigError, match="make_schedule returned None"):
        build_schedule(adam(task.model), nb.RunConfig(), 10, task)


@pytest.mark.parametrize("as_dict", [True, False])
def test_metric_of_a_vector_raises(as_dict: bool) -> None:
    def hits(outputs: Any, batch: Any) -> torch.Tensor:
        return (outputs.argmax(1) == batch[1]).float()

    metrics: Any = {"acc": hits} if as_dict else lambda o, b: {"acc": hits(o, b)}
    task = make_task(metrics=metrics)
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    with pytest.raises(nb.ContractError, match=r"'acc' has shape \(8,\).*\.mean\(\)"):
        coordinator.evaluate("val")


def test_predict_outputs_of_several_shapes_raises() -> None:
    def forward(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0])[:, : 2 if len(batch[0]) == 8 else 1]

    task = make_task(forward=forward)
    coordinator = nb.TrainingCoordinator(task, run_dir="a", **SETTINGS)
    data = (torch.randn(11, 6), torch.zeros(11, dtype=torch.int64))
    with pytest.raises(nb.ContractError, match="cannot be joined"):
        coordinator.predict(data)


def test_train_model_in_eval_mode_is_trained_and_told() -> None:
    task, twin = make_task(), make_task()
    task.model.eval()
    for one, folder in ((task, "a"), (twin, "b")):
        nb.TrainingCoordinator(one, run_dir=folder, **SETTINGS).train()
    assert_same(weights(task), weights(twin))
    texts = [e["text"] for e in read_events("a/events.jsonl") if e["kind"] == "message"]
    assert "was in eval mode" in texts[0]


def test_train_single_layer_in_eval_mode_stays_frozen() -> None:
    task = make_task()
    layer = task.model[1]  # type: ignore[index]
    layer.eval()
    before = layer.running_mean.clone()
    nb.TrainingCoordinator(task, run_dir="a", **SETTINGS).train()
    assert not layer.training
    assert torch.equal(before, layer.running_mean)


class Seen(nb.Callback):
    """Keeps the first feature of every sample that the model was trained on."""

    def __init__(self, task: nb.Task) -> None:
        self.values: list[float] = []
        task.model.register_forward_pre_hook(self._take)

    def _take(self, model: nn.Module, inputs: Any) -> None:
        if model.training:
            self.values += inputs[0][:, 0].tolist()


@pytest.mark.parametrize("size", [8, 4, 16])
def test_resume_with_another_batch_size_sees_each_sample_once(size: int) -> None:
    first, second = make_task(), make_task()
    seen, more = Seen(first), Seen(second)
    options = {**SETTINGS, "epochs": 1}
    nb.TrainingCoordinator(first, run_dir="a", callbacks=[StopAt(2)], **options).train()
    result = nb.TrainingCoordinator(
        second, run_dir="a", **{**options, "batch_size": size}
    ).resume_training()
    assert result.stop_reason == "completed"
    assert len(seen.values + more.values) == len(set(seen.values + more.values)) == 40


def test_resume_with_an_unfit_batch_size_raises() -> None:
    nb.TrainingCoordinator(
        make_task(), run_dir="a", callbacks=[StopAt(2)], **SETTINGS
    ).train()
    unfit = {**SETTINGS, "batch_size": 5}
    with pytest.raises(nb.ConfigError, match="after 16 samples: no multiple"):
        nb.TrainingCoordinator(make_task(), run_dir="a", **unfit).resume_training()
