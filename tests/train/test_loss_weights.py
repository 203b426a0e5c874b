"""Loss terms: their weights, phases over the run, and the log of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import nbutils as nb
from nbutils.monitor.events import read_events
from nbutils.testing import assert_same, make_task, weights
from nbutils.train.loss_weights import LossWeights, phase_factor

SETTINGS: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 4,
    "preflight": "skip",
    "log_every_steps": 1,
}


def two_terms(outputs: torch.Tensor, batch: Any) -> dict[str, torch.Tensor]:
    hit = nn.functional.cross_entropy(outputs, batch[1])
    return {"hit": hit, "size": outputs.square().mean()}


def make_two(**more: Any) -> nb.Task:
    task = make_task()
    return nb.Task(task.model, two_terms, task.train_data, task.val_data, **more)


def steps_of(folder: str) -> list[dict[str, Any]]:
    return [e for e in read_events(f"{folder}/events.jsonl") if e["kind"] == "step"]


@pytest.mark.parametrize(
    ("share", "factor"),
    [(0.0, 1.0), (0.2, 1.0), (0.3, 0.75), (0.4, 0.5), (0.7, 1.25), (1.0, 2.0)],
)
def test_phase_factor_is_piecewise_linear(share: float, factor: float) -> None:
    points = [(0.2, 1.0), (0.4, 0.5), (1.0, 2.0)]
    assert phase_factor(points, share) == pytest.approx(factor)


def test_phase_factor_of_one_point_is_constant() -> None:
    assert [phase_factor([(0.5, 3.0)], share) for share in (0, 0.5, 1)] == [3.0] * 3


def test_loss_weights_multiply_onto_the_base_and_default_to_one() -> None:
    config = nb.RunConfig(
        loss_weights={"size": 4.0},
        loss_phases={"size": [[0, 0], [0.5, 1]], "hit": [[0, 2]]},
    )
    found = LossWeights.of(make_two(loss_weights={"hit": 3.0}), config, 8)
    assert found.current == {"hit": 6.0, "size": 0.0}
    found.move(2)
    assert found.current["size"] == 2.0
    assert found.effective(["size", "else"]) == {"size": 2.0, "else": 1.0}


def test_loss_weights_leave_the_config_alone() -> None:
    config = nb.RunConfig(loss_weights={"a": 1.0}, loss_phases={"a": [[0, 0.5]]})
    LossWeights.of(make_two(), config, 8).move(3)
    assert config.loss.loss_weights == {"a": 1.0}


class Grads(nb.Callback):
    """Weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, state: Any) -> None:
        self.seen.append({k: v.clone() for k, v in state.model.state_dict().items()})


def test_phases_train_as_the_same_weights_by_hand() -> None:
    task = make_two()
    options = {**SETTINGS, "epochs": 2, "loss_phases": {"size": [[0, 0], [1, 1]]}}
    nb.TrainingCoordinator(task, run_dir="a", **options).train()
    step = -1

    def by_hand(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        terms = two_terms(outputs, batch)
        return (
            terms["hit"] + (step / 10 if outputs.requires_grad else 1) * terms["size"]
        )

    class Count(nb.Callback):
        def on_fit_start(self, state: Any) -> None:
            self.on_step_end(state)

        def on_step_end(self, state: Any) -> None:
            nonlocal step
            step = state.step

    twin = make_task()
    other = nb.Task(twin.model, by_hand, twin.train_data, twin.val_data)
    options.pop("loss_phases")
    nb.TrainingCoordinator(other, run_dir="b", callbacks=[Count()], **options).train()
    for name, value in weights(task).items():
        torch.testing.assert_close(value, weights(other)[name], msg=name)


def test_phases_are_logged_with_steps_and_rows() -> None:
    options = {**SETTINGS, "loss_phases": {"size": [[0, 0], [1, 1]]}}
    task = make_two(loss_weights={"hit": 3.0})
    result = nb.TrainingCoordinator(task, run_dir="a", **options).train()
    steps = steps_of("a")
    assert [e["weights"]["size"] for e in steps] == pytest.approx(
        [i / 20 for i in range(20)]
    )
    assert {e["weights"]["hit"] for e in steps} == {3.0}
    assert result.history["weight_size"].tolist() == pytest.approx(
        [0.2, 0.45, 0.7, 0.95]
    )


def test_phases_leave_validation_with_full_weights() -> None:
    silent = {**SETTINGS, "lr": 1e-12, "loss_phases": {"size": [[0, 0]]}}
    with_phase = nb.TrainingCoordinator(make_two(), run_dir="a", **silent).train()
    silent.pop("loss_phases")
    without = nb.TrainingCoordinator(make_two(), run_dir="b", **silent).train()
    assert with_phase.metrics["val_loss"] == without.metrics["val_loss"]
    assert with_phase.metrics["train_loss"] < without.metrics["train_loss"]


class StopAt(nb.Callback):
    def on_step_end(self, state: Any) -> None:
        if state.step == 7:
            state.request_stop("enough")


def test_phases_resume_bit_identically() -> None:
    options = {**SETTINGS, "loss_phases": {"size": [[0, 0], [0.6, 1], [1, 0.1]]}}
    whole, part, fresh = make_two(), make_two(), make_two()
    nb.TrainingCoordinator(whole, run_dir="a", **options).train()
    nb.TrainingCoordinator(part, run_dir="b", callbacks=[StopAt()], **options).train()
    nb.TrainingCoordinator(fresh, run_dir="b", **options).resume_training()
    assert_same(weights(whole), weights(fresh))


def test_phases_unknown_term_raises_with_near_names() -> None:
    options = {**SETTINGS, "loss_phases": {"sise": [[0, 1]]}}
    with pytest.raises(nb.ContractError, match=r"loss_phases has 'sise'.*'size'\?"):
        nb.TrainingCoordinator(make_two(), run_dir="a", **options).train()


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield torch.randn(6), torch.tensor(0)


def test_phases_without_a_planned_length_raise() -> None:
    with pytest.raises(nb.ConfigError, match="loss_phases is set for size, but"):
        LossWeights({}, {"size": [(0.0, 1.0)]}, None)
    task = nb.Task(make_task().model, two_terms, Endless())
    options = {**SETTINGS, "loss_phases": {"size": [[0, 1]]}}
    with pytest.raises(nb.ConfigError, match="set max_steps"):
        nb.TrainingCoordinator(task, run_dir="a", **options).train()


def test_weights_of_several_terms_are_logged_without_phases() -> None:
    options = {**SETTINGS, "loss_weights": {"size": 0.5}}
    nb.TrainingCoordinator(make_two(), run_dir="a", **options).train()
    assert steps_of("a")[0]["weights"] == {"hit": 1.0, "size": 0.5}
    nb.TrainingCoordinator(make_task(), run_dir="b", **SETTINGS).train()
    assert "weights" not in steps_of("b")[0]


def test_weights_without_any_leave_the_single_term_untouched() -> None:
    found = LossWeights.of(make_task(), nb.RunConfig(), 10)
    assert found.current == {}
    assert not found.has_phases
