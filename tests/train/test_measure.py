"""Test numbers come with intervals and with what a trivial predictor reaches."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import nbutils as nb
from nbutils.data.task import Task
from nbutils.monitor.intervals import Interval
from nbutils.monitor.rundir import RunDirectory
from nbutils.train.evaluate import evaluate
from nbutils.train.measure.answers import Answers, right_answers
from nbutils.train.measure.measure import measure_test
from nbutils.train.measure.measured import Measured
from nbutils.train.measure.trivial import kind_of
from nbutils.train.precision import Precision

classification = torchmetrics.classification

CPU = torch.device("cpu")


def measured(task: Task, size: int = 32, **more: Any) -> Measured:
    """``measure_test`` over the task's test data, in batches."""
    columns = task.test_data.tensors
    batches = [
        tuple(c[i : i + size] for c in columns) for i in range(0, len(columns[0]), size)
    ]
    options = {"loss_weights": {}, **more}
    return measure_test(task, batches, Precision("fp32", CPU), CPU, **options)


@pytest.fixture
def classes() -> dict[str, Any]:
    """Model, loss and data of a classifier that is right in most cases."""
    torch.manual_seed(0)
    x = torch.randn(240, 3)
    y = (x[:, 0] > 0.4).long()
    y[::9] = 1 - y[::9]
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.4, -0.4]))
    data = {"train_data": (x[:140], y[:140]), "test_data": (x[140:], y[140:])}
    return {"model": model, "loss": nn.CrossEntropyLoss(), **data}


def share(outputs: Any, batch: Any) -> Any:
    """Share of right answers, as a plain function."""
    return (outputs.argmax(1) == batch[1]).float().mean()


def test_measure_gives_the_numbers_of_evaluate_in_a_plain_dict(
    classes: dict[str, Any],
) -> None:
    task = Task(**classes, metrics={"share": share})
    columns = task.test_data.tensors
    plain = evaluate(
        task, [columns], Precision("fp32", CPU), CPU, loss_weights={}, seed=0
    )
    found = measured(task, size=len(columns[0]))
    assert found == plain
    assert repr(found) == repr(plain)
    assert json.loads(json.dumps(found)) == plain
    again = pickle.loads(pickle.dumps(found))  # noqa: S301  # made a moment ago
    assert again.intervals == found.intervals
    assert copy.deepcopy(found).num_samples == 100


def test_measure_of_proportions_gives_wilson_for_functions_and_torchmetrics(
    classes: dict[str, Any],
) -> None:
    metrics = {
        "share": share,
        "accuracy": classification.MulticlassAccuracy(2, average="micro"),
    }
    found = measured(Task(**classes, metrics=metrics))
    hits = round(found["accuracy"] * 100)
    assert 80 <= hits <= 95
    for name in metrics:
        interval = found.intervals[name]
        assert isinstance(interval, Interval)
        assert interval.method == f"Wilson, {hits} of 100"
        assert interval.low < found[name] < interval.high
    assert isinstance(found.intervals["loss"], Interval)


def test_measure_resamples_a_metric_that_is_no_mean_of_samples(
    classes: dict[str, Any],
) -> None:
    metrics = {"f1": classification.MulticlassF1Score(2), "auc": _auc()}
    found = measured(Task(**classes, metrics=metrics))
    for name in metrics:
        interval = found.intervals[name]
        assert isinstance(interval, Interval)
        assert interval.method == "bias-corrected bootstrap"
        assert interval.num_resamples >= 200
        assert interval.low < found[name] < interval.high


def _auc() -> Any:
    return classification.MulticlassAUROC(2)


def test_measure_compares_with_the_most_frequent_class_of_training(
    classes: dict[str, Any],
) -> None:
    metrics = {"accuracy": classification.MulticlassAccuracy(2, average="micro")}
    names = {"class_names": ["cat", "dog"]}
    task = Task(**classes, metrics=metrics, extras=names)
    (baseline,) = measured(task).baselines
    truth = task.test_data.tensors[1]
    top = int(task.train_data.tensors[1].bincount().argmax())
    assert baseline.metrics["accuracy"] == pytest.approx(
        float((truth == top).float().mean())
    )
    assert f"always says '{names['class_names'][top]}'" in baseline.how
    assert "all 140 training targets" in baseline.how
    difference = baseline.differences["accuracy"]
    assert difference.verdict == "better"
    assert difference.p_value is not None
    assert difference.p_value < 0.05
    assert baseline.differences["loss"].verdict == "better"
    assert 0.5 < baseline.metrics["loss"] < 0.7


def test_measure_of_a_guessing_model_is_not_told_apart_from_its_baseline(
    classes: dict[str, Any],
) -> None:
    with torch.no_grad():
        classes["model"].weight.zero_()
        classes["model"].weight[0, 1] = 0.3  # a column that says nothing
        classes["model"].bias.copy_(torch.tensor([0.6, 0.0]))
    (baseline,) = measured(Task(**classes)).baselines
    assert baseline.differences["loss"].verdict == "not told apart"


def test_measure_of_answers_that_never_differ_or_always_do_has_a_verdict() -> None:
    x = torch.ones(40, 1)
    ones, zeros = torch.ones(40).long(), torch.zeros(40).long()
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [9.0]]))
    metrics = {"accuracy": classification.MulticlassAccuracy(2, average="micro")}
    for labels, verdict in (ones, "not told apart"), (zeros, "better"):
        data = {"train_data": (x, labels), "test_data": (x, ones)}
        task = Task(model, nn.CrossEntropyLoss(), **data, metrics=metrics)
        (baseline,) = measured(task).baselines
        assert baseline.differences["accuracy"].verdict == verdict


def test_measure_of_values_compares_with_the_mean_of_training() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    y = 2 * x[:, :1] + 0.3 * torch.randn(200, 1)
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 0.0]]))
    metrics = {"mae": torchmetrics.MeanAbsoluteError(), "r2": torchmetrics.R2Score()}
    task = Task(
        model,
        nn.MSELoss(),
        (x[:100], y[:100]),
        None,
        (x[100:], y[100:]),
        metrics=metrics,
    )
    found = measured(task)
    (baseline,) = found.baselines
    assert baseline.name == "mean"
    assert baseline.metrics["r2"] == pytest.approx(0.0, abs=0.05)
    assert {n: d.verdict for n, d in baseline.differences.items()} == {
        "loss": "better",
        "mae": "better",
        "r2": "better",
    }
    assert all(isinstance(found.intervals[name], Interval) for name in found)
    assert found.answers.kind == "values"


@pytest.mark.parametrize("is_logit", [True, False])
def test_measure_of_yes_and_no_takes_the_form_that_the_loss_wants(
    is_logit: bool,
) -> None:
    torch.manual_seed(0)
    x = torch.randn(150, 1)
    y = (x > 0.8).float()
    layers = [nn.Linear(1, 1)] if is_logit else [nn.Linear(1, 1), nn.Sigmoid()]
    loss = nn.BCEWithLogitsLoss() if is_logit else nn.BCELoss()
    task = Task(nn.Sequential(*layers), loss, (x, y), None, (x, y))
    (baseline,) = measured(task).baselines
    p = float(y.mean())
    entropy = -(p * torch.tensor(p).log() + (1 - p) * torch.tensor(1 - p).log())
    assert baseline.metrics["loss"] == pytest.approx(float(entropy), rel=1e-4)


def test_measure_of_several_labels_answers_the_share_of_each() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    y = (x > torch.tensor([0.0, 0.5, 1.0])).float()
    task = Task(nn.Linear(3, 3), nn.BCEWithLogitsLoss(), (x, y), None, (x, y))
    (baseline,) = measured(task).baselines
    entropy = nn.functional.binary_cross_entropy(y.mean(0).expand_as(y), y)
    assert baseline.metrics["loss"] == pytest.approx(float(entropy), rel=1e-4)
    assert baseline.name == "share of ones"


def test_measure_takes_declared_baselines_as_outputs_and_as_numbers(
    classes: dict[str, Any],
) -> None:
    declared = {
        "half": 0.6931,
        "first column": lambda batch: torch.stack([-batch[0][:, 0], batch[0][:, 0]], 1),
        "broken": lambda batch: 1 / 0,
    }
    metrics = {"f1": classification.MulticlassF1Score(2)}
    found = measured(Task(**classes, baselines=declared, metrics=metrics))
    names = [baseline.name for baseline in found.baselines]
    assert names == ["most frequent class", "first column"]
    own = found.baselines[1].differences["f1"]
    assert isinstance(own.interval, Interval)
    assert any("'half': loss 0.6931" in note for note in found.notes)
    assert any("'broken' failed: ZeroDivisionError" in note for note in found.notes)


def test_measure_weighs_samples_by_their_targets() -> None:
    torch.manual_seed(0)
    x = torch.randn(80, 5)
    mask = (torch.rand(80, 5) < 0.6).float()
    mask[:, 0] = 1

    def loss(outputs: Any, batch: Any) -> Any:
        return ((outputs - 1) ** 2 * batch[1]).sum() / batch[1].sum()

    task = Task(
        nn.Linear(5, 5),
        loss,
        (x, mask),
        None,
        (x, mask),
        count_targets=lambda batch: batch[1].sum(),
    )
    found = measured(task)
    interval = found.intervals["loss"]
    assert isinstance(interval, Interval)
    assert interval.low < found["loss"] < interval.high


def test_measure_gives_no_interval_to_what_is_no_mean_over_samples() -> None:
    x = torch.randn(64, 4)

    def contrast(outputs: Any, batch: Any) -> Any:
        return nn.functional.cross_entropy(
            outputs @ outputs.T, torch.arange(len(outputs))
        )

    def spread(outputs: Any, batch: Any) -> Any:
        return outputs.std(0, correction=0).mean()

    def fragile(outputs: Any, batch: Any) -> Any:
        if len(outputs) == 1:
            raise ValueError("two are needed\nat least")
        return outputs.mean()

    found = measured(
        Task(nn.Linear(4, 4), contrast, (x,), None, (x,), metrics={"s": spread})
    )
    assert "no mean over samples" in str(found.intervals["loss"])
    assert "no mean over samples" in str(found.intervals["s"])
    assert any("No trivial predictor beside it" in note for note in found.notes)
    found = measured(
        Task(nn.Linear(4, 4), contrast, (x,), None, (x,), metrics={"f": fragile})
    )
    assert found.intervals["f"] == "on one sample alone: ValueError: two are needed"
    assert found.answers is None


def test_measure_leaves_model_metrics_and_random_numbers_as_they_were(
    classes: dict[str, Any],
) -> None:
    def noisy(outputs: Any, batch: Any) -> Any:
        return nn.functional.cross_entropy(
            outputs + 0.1 * torch.rand_like(outputs), batch[1]
        )

    metric = classification.MulticlassAccuracy(2, average="micro")
    task = Task(**{**classes, "loss": noisy}, metrics={"accuracy": metric})
    columns = task.test_data.tensors
    batches = [tuple(c[i : i + 20] for c in columns) for i in range(0, 100, 20)]
    options = {"loss_weights": {}, "seed": 3}
    plain = evaluate(task, batches, Precision("fp32", CPU), CPU, **options)
    before = torch.get_rng_state()
    found = measure_test(task, batches, Precision("fp32", CPU), CPU, **options)
    assert dict(found) == plain
    assert torch.equal(torch.get_rng_state(), before)
    assert not metric.update_called


def test_measure_tells_of_neighbours_that_are_related() -> None:
    torch.manual_seed(0)
    y = torch.randn(200).cumsum(0)[:, None]
    x = torch.zeros(200, 1)
    task = Task(nn.Linear(1, 1), nn.MSELoss(), (x, y), None, (x, y))
    notes = measured(task).notes
    assert "assume independent samples" in notes[0]
    assert "Neighbouring samples have related losses" in notes[1]


class Pairs(Dataset[Any]):
    """Samples made one at a time."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


class Stream(IterableDataset[Any]):
    """Samples that come once."""

    def __iter__(self) -> Any:
        return iter([(torch.zeros(3), torch.tensor(1))] * 8)


@pytest.mark.parametrize(
    ("listed", "source"),
    [
        ("right", "all 140 training targets"),
        ("wrong", "140 training targets drawn at random"),
        (None, "140 training targets drawn at random"),
    ],
)
def test_measure_reads_training_targets_where_they_are_listed(
    classes: dict[str, Any], listed: str | None, source: str
) -> None:
    x, y = classes["train_data"]
    data = Pairs(x, y)
    if listed is not None:
        data.targets = y.tolist() if listed == "right" else (1 - y).tolist()
    (baseline,) = measured(Task(**{**classes, "train_data": data})).baselines
    assert source in baseline.how


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (Stream(), "a stream, which is not read again"),
        ((torch.zeros(8, 3),), "no pairs of input and target"),
        ((torch.zeros(8, 3), torch.zeros(8)), "no class numbers"),
        ((torch.zeros(8, 3), torch.full((8,), 5)), "not all within 0 .. 1"),
        (Pairs([torch.zeros(3)], ["a"]), "of type str"),
        (
            Pairs(torch.zeros(2, 3), [torch.zeros(1), torch.zeros(2)]),
            "different shapes",
        ),
        ([torch.zeros(3)] * 4, "no pairs of input and target"),
    ],
)
def test_measure_says_why_there_is_no_trivial_predictor(
    classes: dict[str, Any], train: Any, reason: str
) -> None:
    found = measured(Task(**{**classes, "train_data": train}))
    assert not found.baselines
    assert any(reason in note for note in found.notes)


class Torn(Pairs):
    """Samples that cannot be read."""

    def __getitem__(self, index: int) -> Any:
        raise OSError(f"file {index} is torn")


def test_measure_goes_on_where_training_data_cannot_be_read(
    classes: dict[str, Any],
) -> None:
    found = measured(Task(**{**classes, "train_data": Torn(*classes["train_data"])}))
    assert any("(OSError: file" in note for note in found.notes)
    assert isinstance(found.intervals["loss"], Interval)


def test_kind_of_tells_classes_yes_and_no_and_values() -> None:
    classes, column = torch.randn(4, 3), torch.randn(4, 1)
    assert kind_of(classes, (None, torch.tensor([0, 2, 1, 0]))) == "classes"
    assert kind_of(classes, (None, torch.tensor([0, -100, 1, 0]))) is None
    assert kind_of(column, (None, torch.tensor([0, 1, 1, 0]))) == "binary"
    assert kind_of(column, (None, torch.randn(4))) == "values"
    assert kind_of({"a": classes}, (None, torch.randn(4))) is None
    assert kind_of(classes, torch.randn(4)) is None


def test_answers_keep_no_more_than_their_bound(monkeypatch: Any) -> None:
    monkeypatch.setattr("nbutils.train.measure.answers.MAX_BYTES", 100)
    answers = Answers()
    for _ in range(4):
        answers.add(torch.randn(4, 1), (None, torch.randn(4, 1)))
    assert answers.is_empty
    assert "more than 0 MiB" in answers.reason


def test_answers_of_zeros_and_ones_by_chance_become_values() -> None:
    answers = Answers()
    answers.add(torch.randn(2, 1), (None, torch.tensor([[0.0], [1.0]])))
    answers.add(torch.randn(2, 1), (None, torch.tensor([[0.4], [1.0]])))
    answers.add(torch.randn(1, 1), (None, torch.tensor([[1.0]])))
    assert answers.kind == "values"
    assert answers.outputs().shape == answers.targets().shape == (5, 1)


def test_right_answers_are_those_of_the_reported_share_alone() -> None:
    outputs, targets = torch.eye(4)[[0, 1, 2, 2]], torch.arange(4)
    found = right_answers("classes", outputs, targets, 0.75)
    assert found is not None
    assert found.tolist() == [1, 1, 1, 0]
    assert right_answers("classes", outputs, targets, 0.7) is None
    assert right_answers("values", outputs, targets, 0.75) is None


def test_measured_shows_a_table_and_escapes_names() -> None:
    found = Measured({"<b>": 0.5, "list": [1, 2]})
    found.intervals = {"<b>": Interval(low=0.4, high=0.6, method="m", num_samples=9)}
    found.notes = ["one & all"]
    html = found._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "one &amp; all" in html
    assert "0.4 … 0.6" in found.summary()
    assert "a list" in found.summary()


def test_evaluate_of_test_data_is_recorded_with_figures(
    classes: dict[str, Any], tmp_path: Path
) -> None:
    metrics = {"accuracy": classification.MulticlassAccuracy(2, average="micro")}
    task = Task(**classes, metrics=metrics)
    run = nb.TrainingCoordinator(
        task, epochs=1, preflight="skip", panel="off", run_dir=tmp_path / "run"
    )
    first = run.evaluate("test")  # before there is a run: nothing is recorded
    assert first.answers is None
    assert not (tmp_path / "run" / "run.json").exists()
    run.train()
    found = run.evaluate("test")
    run.evaluate("test", weights="best")
    record = RunDirectory(tmp_path / "run").read_json("run.json")
    assert record is not None
    assert record["num_tests"] == 2
    assert record["tests"]["last"] == json.loads(
        json.dumps({**found.to_record(), **_told(record)})
    )
    assert record["test_metrics"] == record["tests"]["best"]["metrics"]
    assert record["samples"] == {"train": 140, "val": None, "test": 100}
    assert set(record["data_fingerprints"]) == {"train", "test"}
    assert len(record["sessions"]) == 1
    figures = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert figures >= {"confusion", "classes", "reliability"}
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "better than &#x27;most frequent class&#x27;" in html
    assert "looked at 2 times" in html


def _told(record: dict[str, Any]) -> dict[str, Any]:
    last = record["tests"]["last"]
    return {"step": last["step"], "time_s": last["time_s"]}
