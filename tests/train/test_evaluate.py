"""Law 8: what evaluation reports is what happened, split or not."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nbutils as nb
from nbutils.monitor.events import read_events
from nbutils.train.evaluate import evaluate, evaluating, predict
from nbutils.train.memory_errors import OutOfMemoryProblem
from nbutils.train.oom import Pieces
from nbutils.train.precision import Precision

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)


class Tight(nn.Module):
    """A linear classifier without room for more than ``limit`` samples."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.limit = limit
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.limit is not None and len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.sizes.append(len(x))
        return self.inner(x)


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(n, 4, generator=generator), torch.arange(n) % 3) for n in sizes
    ]


def task_of(model: nn.Module, **options: Any) -> nb.Task:
    return nb.Task(model, options.pop("loss", nn.CrossEntropyLoss()), [0], **options)


def accuracy(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs.argmax(1) == batch[1]).float().mean()


def measure(task: nb.Task, data: Any, **options: Any) -> dict[str, Any]:
    return evaluate(task, data, FP32, CPU, loss_weights={}, **options)


def pieces_of(task: nb.Task, splits: list[int]) -> Pieces:
    return Pieces(CPU, task, on_split=splits.append)


def twins(limit: int) -> tuple[Tight, Tight]:
    torch.manual_seed(0)
    roomy, tight = Tight(), Tight(limit)
    tight.load_state_dict(roomy.state_dict())
    return roomy, tight


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 13), min_size=1, max_size=4),
    limit=st.integers(1, 6),
)
def test_evaluate_in_pieces_equals_whole_batches(sizes: list[int], limit: int) -> None:
    roomy, tight = twins(limit)
    found = []
    for model in (roomy, tight):
        confusion = torchmetrics.ConfusionMatrix(task="multiclass", num_classes=3)
        metrics = {"accuracy": accuracy, "confusion": confusion}
        task = task_of(model, metrics=metrics)
        found.append(measure(task, batches(*sizes), pieces=pieces_of(task, [])))
        assert sum(model.sizes) == sum(sizes)
    whole, parts = found
    assert whole["confusion"] == parts["confusion"]
    assert sum(map(sum, parts["confusion"])) == sum(sizes)
    for name in ("loss", "accuracy"):
        assert whole[name] == pytest.approx(parts[name], rel=1e-5, abs=1e-7)


def test_evaluate_in_pieces_keeps_what_it_learnt_for_later_batches() -> None:
    _, tight = twins(4)
    task = task_of(tight)
    splits: list[int] = []
    measure(task, batches(12, 12, 3), pieces=pieces_of(task, splits))
    assert splits == [6, 3]
    assert tight.sizes == [3] * 9


def test_evaluate_without_pieces_prints_what_it_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, tight = twins(4)
    measure(task_of(tight), batches(8))
    assert (
        "out of memory in evaluation; at most 4 samples at once"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("act", ["evaluate", "predict"])
def test_coordinator_splits_evaluation_only_if_it_may(act: str) -> None:
    def run(on_oom: str) -> Any:
        (data,) = batches(8)
        task = nb.Task(twins(4)[1], nn.CrossEntropyLoss(), data, test_data=data)
        trainer = nb.TrainingCoordinator(task, on_oom=on_oom, device="cpu")
        return trainer.evaluate() if act == "evaluate" else trainer.predict(data)

    assert run("split") is not None
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        run("raise")


def test_evaluate_counts_tokens_in_pieces_too() -> None:
    def loss(outputs: Tensor, batch: Any) -> Tensor:
        error = (outputs.sum(1) - batch["y"]) ** 2 * batch["mask"]
        return error.sum() / batch["mask"].sum()

    data = [
        {
            "x": torch.randn(6, 4),
            "y": torch.randn(6),
            "mask": torch.tensor([0.0, 0, 0, 1, 0, 1]),
        },
        {"x": torch.randn(2, 4), "y": torch.randn(2), "mask": torch.zeros(2)},
    ]
    results = []
    for model in twins(2):
        task = task_of(
            model,
            loss=loss,
            forward=lambda model, batch: model(batch["x"]),
            count_targets=lambda batch: batch["mask"].sum(),
        )
        results.append(measure(task, data, pieces=pieces_of(task, [])))
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    with torch.no_grad():
        whole = loss(twins(2)[0](data[0]["x"]), data[0]).item()
    assert results[0]["loss"] == pytest.approx(whole, rel=1e-5)


def test_evaluate_terms_are_weighted_means() -> None:
    def loss(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        return {"a": batch[1].float().mean(), "b": outputs.mean() * 0}

    data = [
        (torch.zeros(3, 4), torch.full((3,), 2.0)),
        (torch.zeros(1, 4), torch.full((1,), 6.0)),
    ]
    found = measure(task_of(Tight(), loss=loss), data)
    assert found["a"] == 3.0
    assert found["loss"] == 3.0


@pytest.mark.parametrize("data", [[], batches(3)])
def test_evaluate_zero_targets_is_an_error(data: Any) -> None:
    task = task_of(Tight(), count_targets=lambda batch: 0)
    with pytest.raises(nb.ContractError, match="0 samples were evaluated"):
        measure(task, data)


def test_evaluate_nan_stays_nan() -> None:
    x, y = batches(4)[0]
    x[0] = math.nan
    assert math.isnan(measure(task_of(Tight()), [(x, y)])["loss"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nan_in_validation_is_recorded_and_never_best(tmp_path: Path) -> None:
    x, y = batches(16)[0]
    bad = x.clone()
    bad[0] = math.nan
    task = nb.Task(Tight(), nn.CrossEntropyLoss(), (x, y), (bad, y))
    result = nb.TrainingCoordinator(
        task, run_dir=tmp_path / "a", epochs=2, preflight="skip", panel="off"
    ).train()
    assert result.history["val_loss"].isna().all()
    assert not result.history["train_loss"].isna().any()
    events = read_events(tmp_path / "a" / "events.jsonl")
    values = [e["metrics"]["val_loss"] for e in events if e["kind"] == "evaluate"]
    assert len(values) == 2
    assert all(math.isnan(value) for value in values)
    assert not result.best


def test_train_and_validation_loss_of_the_same_data_agree(tmp_path: Path) -> None:
    """Ragged batches, weighted terms, accumulation; the weights hardly move."""

    def loss(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        entropy = nn.functional.cross_entropy(outputs, batch[1])
        return {"entropy": entropy, "size": outputs.square().mean()}

    x, y = batches(21)[0]
    task = nb.Task(Tight(), loss, (x, y), (x, y), loss_weights={"size": 0.3})
    result = nb.TrainingCoordinator(
        task,
        run_dir=tmp_path / "a",
        epochs=1,
        batch_size=4,
        accumulation=2,
        lr=1e-9,
        weight_decay=0.0,
        preflight="skip",
        panel="off",
    ).train()
    row = result.history.iloc[0]
    assert row["train_loss"] == pytest.approx(row["val_loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["loss", "entropy"])
def test_evaluate_metric_named_like_a_term_is_refused(name: str) -> None:
    def loss(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        return {"entropy": nn.functional.cross_entropy(outputs, batch[1])}

    task = task_of(Tight(), loss=loss, metrics={name: accuracy})
    with pytest.raises(nb.ContractError, match=f"metric '{name}' has the name of"):
        measure(task, batches(3))


def test_evaluate_metric_out_of_memory_is_not_counted_twice() -> None:
    class Greedy(torchmetrics.MeanMetric):
        def update(self, *_args: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    task = task_of(Tight(), metrics={"greedy": Greedy()})
    with pytest.raises(OutOfMemoryProblem, match="out of memory in metric 'greedy'"):
        measure(task, batches(4))


def test_predict_in_pieces_gives_the_same_rows_in_order() -> None:
    roomy, tight = twins(3)
    data = [x for x, _ in batches(7, 4)]
    whole = predict(task_of(roomy), data, FP32, CPU)
    task = task_of(tight)
    splits: list[int] = []
    parts = predict(task, data, FP32, CPU, pieces=pieces_of(task, splits))
    assert splits == [4, 2]
    assert torch.allclose(whole, parts, atol=1e-6)


def test_predict_in_pieces_needs_no_targets() -> None:
    _, tight = twins(3)
    task = task_of(tight, count_targets=lambda batch: batch["labels"].numel())
    assert predict(task, [torch.zeros(7, 4)], FP32, CPU).shape == (7, 3)


def test_predict_one_sample_that_does_not_fit_raises() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="not even one sample"):
        predict(task_of(Tight(0)), [torch.zeros(2, 4)], FP32, CPU)


def test_evaluating_gives_back_modes_and_generators_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    def fail() -> None:
        with evaluating(model, CPU):
            assert not model.training
            torch.rand(1), np.random.rand(), random.random()
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert (model.training, model[1].training) == (True, False)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert torch.is_grad_enabled()
