"""Best and worst samples are those of losses taken one by one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from watcher_tools import fit, kinds

import nbutils as nb
from nbutils.errors import ConfigError
from nbutils.testing import make_task
from nbutils.train.watchers import ExampleMonitor
from nbutils.train.watchers.sample_losses import sample_losses

OPTIONS: dict[str, Any] = {"batch_size": 8, "epochs": 1}


def told(folder: str = "run") -> dict[str, Any]:
    return kinds(folder, "examples")[-1]


def test_examples_are_those_of_each_sample_alone() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(43, 6), torch.randint(2, (43,))  # a ragged last batch
    task = make_task()
    task = nb.Task(task.model, nn.CrossEntropyLoss(), (x, y), (x, y))
    fit(task, "run", **OPTIONS)
    task.model.eval()
    with torch.no_grad():
        losses = F.cross_entropy(task.model(x), y, reduction="none")
    order = losses.argsort().tolist()
    event = told()
    assert [row["index"] for row in event["best"]] == order[:8]
    assert [row["index"] for row in event["worst"]] == order[:-9:-1]
    for row in event["best"] + event["worst"]:
        assert row["loss"] == pytest.approx(float(losses[row["index"]]), rel=1e-4)
    assert (event["step"], event["split"]) == (6, "val")


def test_examples_of_few_samples_are_in_one_list_only() -> None:
    x, y = torch.randn(5, 6), torch.randint(2, (5,))
    task = nb.Task(make_task().model, nn.CrossEntropyLoss(), (x, y), (x, y))
    fit(task, "run", **OPTIONS)
    event = told()
    places = [row["index"] for row in event["best"] + event["worst"]]
    assert len(places) == len(set(places)) == 4


def test_number_of_examples_can_be_chosen() -> None:
    fit(make_task(), "run", ExampleMonitor(3), **OPTIONS)
    assert [len(told()[name]) for name in ("best", "worst")] == [3, 3]
    with pytest.raises(ConfigError, match="num_examples is 0; it must be >= 1"):
        ExampleMonitor(0)


def test_examples_come_after_the_first_and_the_last_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.examples.GAP_S", 3600.0)
    fit(make_task(), "run", batch_size=8, epochs=6)
    assert [event["step"] for event in kinds("run", "examples")] == [5, 30]


def test_loss_that_is_not_finite_is_the_worst() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            bad = (x[:, :1] > 100) & ~torch.tensor(self.training)
            return torch.where(bad, torch.nan, self.inner(x))

    x, y = torch.randn(24, 6), torch.randint(2, (24,))
    held = x.clone()
    held[17, 0] = 1000
    task = nb.Task(Odd(), nn.CrossEntropyLoss(), (x, y), (held, y))
    fit(task, "run", monitor="train_loss", **OPTIONS)
    assert told()["worst"][0] == {"index": 17, "loss": float("inf")}


def test_examples_of_batches_that_were_split_keep_their_places() -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(x)

    x, y = torch.randn(21, 6), torch.randint(2, (21,))
    task = nb.Task(Hungry(), nn.CrossEntropyLoss(), (x, y), (x, y))
    fit(task, "run", **OPTIONS)
    with torch.no_grad():
        losses = F.cross_entropy(task.model.inner(x), y, reduction="none")
    assert [row["index"] for row in told()["best"]] == losses.argsort().tolist()[:8]


def test_examples_of_a_stream_have_their_place_in_it() -> None:
    x, y = torch.randn(20, 6), torch.randint(2, (20,))

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(x, y, strict=True))

    task = nb.Task(make_task().model, nn.CrossEntropyLoss(), (x, y), Stream())
    fit(task, "run", **OPTIONS)
    task.model.eval()
    with torch.no_grad():
        losses = F.cross_entropy(task.model(x), y, reduction="none")
    assert [row["index"] for row in told()["best"]] == losses.argsort().tolist()[:8]


def own_loss(outputs: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(outputs, batch[1])


def test_loss_of_ones_own_has_no_examples_unless_it_gives_them() -> None:
    x, y = torch.randn(20, 6), torch.randint(2, (20,))
    fit(nb.Task(make_task().model, own_loss, (x, y), (x, y)), "run", **OPTIONS)
    assert kinds("run", "examples") == []

    def given(outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch[1])

    given.sample_losses = lambda outputs, batch: F.cross_entropy(  # type: ignore[attr-defined]
        outputs, batch[1], reduction="none"
    )
    fit(nb.Task(make_task().model, given, (x, y), (x, y)), "own", **OPTIONS)
    assert len(told("own")["best"]) == 8


def losses_of(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor | None:
    task = nb.Task(nn.Linear(1, 1), loss, [0])
    function = sample_losses(task)
    return None if function is None else function(outputs, (None, targets))


SHAPED: list[tuple[Callable[..., Any], Tensor, Tensor]] = [
    (nn.CrossEntropyLoss(), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])),
    (F.cross_entropy, torch.randn(4, 3, 5), torch.randint(3, (4, 5))),
    (nn.CrossEntropyLoss(), torch.randn(4, 3), torch.rand(4, 3)),
    (nn.MSELoss(), torch.randn(4, 3, 2), torch.randn(4, 3, 2)),
    (F.l1_loss, torch.randn(4), torch.randn(4)),
    (nn.BCEWithLogitsLoss(), torch.randn(4, 2), torch.rand(4, 2)),
    (nn.MultiMarginLoss(), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])),
    (
        functools.partial(F.cross_entropy, label_smoothing=0.1),
        torch.randn(4, 3),
        torch.tensor([0, 2, 1, 1]),
    ),
    (
        nn.CrossEntropyLoss(label_smoothing=0.2),
        torch.randn(4, 3, 2, 2),
        torch.randint(3, (4, 2, 2)),
    ),
]


@pytest.mark.parametrize(("loss", "outputs", "targets"), SHAPED)
def test_sample_losses_are_the_loss_of_each_sample_alone(
    loss: Any, outputs: Tensor, targets: Tensor
) -> None:
    found = losses_of(loss, outputs, targets)
    assert found is not None
    alone = [loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(4)]
    assert found.tolist() == pytest.approx([float(value) for value in alone])
    assert float(found.mean()) == pytest.approx(float(loss(outputs, targets)))


@pytest.mark.parametrize("index", [None, 7])
def test_ignored_targets_do_not_count(index: int | None) -> None:
    options = {} if index is None else {"ignore_index": index}
    hole = -100 if index is None else index
    outputs, targets = torch.randn(3, 4, 5), torch.randint(4, (3, 5))
    targets[0, 2:] = hole
    targets[1] = hole
    for loss in (
        nn.CrossEntropyLoss(**options),
        functools.partial(F.cross_entropy, **options),
    ):
        found = losses_of(loss, outputs, targets)
        assert found is not None
        for i in (0, 2):
            alone = loss(outputs[i : i + 1], targets[i : i + 1])
            assert float(found[i]) == pytest.approx(float(alone))
        assert found[1].isnan()  # it has no target


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (nn.MSELoss(), torch.randn(4, 1), torch.randn(4)),
        (nn.MSELoss(), torch.randn(()), torch.randn(())),
        (nn.KLDivLoss(reduction="batchmean"), torch.rand(4, 2), torch.rand(4, 2)),
        (own_loss, torch.randn(4, 3), torch.tensor([0, 2, 1, 1])),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_loss_in_doubt_gives_none(loss: Any, outputs: Tensor, targets: Tensor) -> None:
    assert losses_of(loss, outputs, targets) is None


def test_smoothed_labels_are_those_of_the_run() -> None:
    task = nb.Task(nn.Linear(1, 1), nn.CrossEntropyLoss(), [0])
    outputs, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    function = sample_losses(task, 0.3)
    assert function is not None
    expected = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.3)
    found = function(outputs, (None, targets))
    assert found is not None
    assert torch.allclose(found, expected)


def test_samples_without_a_target_are_in_no_list() -> None:
    x, y = torch.randn(20, 6), torch.randint(2, (20,))
    y[4] = -100
    task = nb.Task(make_task().model, nn.CrossEntropyLoss(), (x, y.abs() % 2), (x, y))
    fit(task, "run", ExampleMonitor(10), **OPTIONS)
    places = [row["index"] for name in ("best", "worst") for row in told()[name]]
    assert len(places) == 18
    assert 4 not in places
