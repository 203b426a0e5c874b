"""NaN and infinity, wherever they arise: refused, named, saved; the rest untouched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import nbutils as nb
from nbutils.monitor.events import Event, read_events
from nbutils.testing import assert_same

SIZE, BAD = 8, 3  # samples of a batch; the batch that is spoilt
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "batch_size": SIZE,
    "shuffle": False,
    "ema_decay": 0.9,
    "lr": 1e-2,
    "preflight": "skip",
    "panel": "off",
}
NO_FAULT, LOSS, GRADIENT, TERM = 0.0, 1.0, 2.0, 3.0


class Net(nn.Module):
    """BatchNorm, and a masked branch whose statistics see everything."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.aside = nn.BatchNorm1d(2)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor, aside: Tensor, kind: Tensor) -> Tensor:
        features = self.body(x)
        if bool((kind == GRADIENT).any()) and features.requires_grad:
            features.register_hook(lambda gradient: gradient * math.nan)
        unseen = self.aside(aside).detach() * 0
        masked = torch.where(unseen.isfinite(), unseen, torch.zeros(()))
        return self.head(features) + masked.sum(1, keepdim=True)


class Loss(nn.Module):
    """Two terms, a learnt weight, and a running mean of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("running", torch.zeros(()))

    def forward(self, outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        error = ((outputs - batch["y"]) ** 2).mean()
        self.running.mul_(0.9).add_(0.1 * error.detach())
        kind = batch["kind"]
        lost = torch.where((kind == LOSS).any(), math.nan, 0.0)
        term = torch.where((kind == TERM).any(), math.inf, 1.0)
        return {
            "error": error * self.weight.exp() + self.weight**2 + lost,
            "size": 0.01 * outputs.abs().mean() * term,
        }


def columns(num_batches: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    count = num_batches * SIZE
    sizes = {"x": 4, "aside": 2, "y": 1}
    data = {k: torch.randn(count, n, generator=generator) for k, n in sizes.items()}
    return {**data, "kind": torch.zeros(count)}


def make(data: Any, **more: Any) -> nb.Task:
    torch.manual_seed(2)
    return nb.Task(
        Net(),
        Loss(),
        data,
        forward=lambda model, b: model(b["x"], b["aside"], b["kind"]),
        count_targets=lambda batch: len(batch["y"]),
        **more,
    )


def spoil(data: dict[str, Tensor], fault: str, batch: int = BAD) -> dict[str, Tensor]:
    row = batch * SIZE + 2
    where, value = {
        "input nan": ("x", math.nan),
        "input inf": ("x", -math.inf),
        "target": ("y", math.nan),
        "statistics": ("aside", math.inf),
        "loss": ("kind", LOSS),
        "gradient": ("kind", GRADIENT),
        "term": ("kind", TERM),
    }[fault]
    data[where][row] = value
    return data


def without(data: dict[str, Tensor], first: int, count: int) -> dict[str, Tensor]:
    """The samples that are trained on when a window is refused."""
    kept = [i for i in range(len(data["y"])) if not first <= i < first + count]
    return {name: column[kept] for name, column in data.items()}


def run(task: nb.Task, folder: str, *callbacks: Any, **more: Any) -> nb.TrainResult:
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **{**SETTINGS, **more}
    ).train()


def events(kind: str, folder: str = "bad") -> list[Event]:
    found = read_events(Path(folder) / "events.jsonl")
    return [event for event in found if event["kind"] == kind]


def saved(folder: str, *names: str) -> dict[str, Tensor]:
    """Tensors of the newest checkpoint: weights, moments, average, loss."""
    newest = max(Path(folder, "checkpoints").glob("step-*"))
    parts = torch.load(newest / "state.pt", weights_only=True)["parts"]
    found: dict[str, Tensor] = dict(parts["ema"]["shadow"]) | dict(parts["loss"])
    for key, moments in parts["optimizer"]["state"].items():
        found |= {f"{key}.{name}": value for name, value in moments.items()}
    return found


FAULTS = ["input nan", "input inf", "target", "statistics", "loss", "gradient", "term"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("precision", "accumulation"), [("fp32", 1), ("bf16", 4)])
def test_spoilt_window_is_as_if_it_had_never_been(
    fault: str, precision: str, accumulation: int
) -> None:
    settings = {"precision": precision, "accumulation": accumulation}
    bad = make(spoil(columns(), fault))
    result = run(bad, "bad", **settings)
    first = BAD // accumulation * accumulation * SIZE
    good = make(without(columns(), first, accumulation * SIZE))
    run(good, "good", **settings)
    assert (result.stop_reason, result.skipped) == ("completed", 1)
    assert math.isfinite(result.metrics["train_loss"])
    assert_same(dict(bad.model.state_dict()), dict(good.model.state_dict()))
    assert_same(saved("bad"), saved("good"))
    (event,) = events("refused")
    assert event["indices"] == list(range(first, first + accumulation * SIZE))
    assert events("rollback") == events("watchdog") == []
    window = torch.load(event["batch_file"], weights_only=True)
    assert len(window) == accumulation
    assert event["how_to_load"] == "torch.load(path, weights_only=True)"


@pytest.mark.parametrize("fault", FAULTS)
def test_spoilt_window_in_half_precision_leaves_finite_weights(fault: str) -> None:
    task = make(spoil(columns(40), fault, batch=30))
    result = run(task, "bad", precision="fp16")
    assert result.stop_reason == "completed"
    assert all(value.isfinite().all() for value in task.model.state_dict().values())
    assert all(value.isfinite().all() for value in saved("bad").values())
    refused = [event for event in events("refused") if event["step"] == 31]
    assert len(refused) == 1
    settles = fault == "gradient"  # a finite loss: how would a scale know?
    assert (refused[0]["batch_file"] is None) is settles


CULPRITS = {
    "input nan": "the batch itself holds NaN at x (4 of 32 values); module body.0: "
    "output has 8 of 64 values non-finite; its input had 4 of 32 values non-finite",
    "target": "the batch itself holds NaN at y (1 of 8 values); module loss: output "
    "has 1 of 1 values non-finite",
    "statistics": "the batch itself holds infinity at aside (2 of 16 values); module "
    "aside: output has 16 of 16 values non-finite",
    "loss": "module loss: output has 1 of 1 values non-finite; its input was finite",
    "gradient": "the loss is finite; the gradient at the output of module body.1 has "
    "64 of 64 values non-finite; the one behind it, of module body.2, was finite",
}


@pytest.mark.parametrize("fault", CULPRITS)
def test_first_bad_module_is_named_in_event_error_and_report(fault: str) -> None:
    data = columns()
    for batch in range(2, 8):
        spoil(data, fault, batch)
    options = {"max_rollbacks": 0, "save_every_steps": 1}
    with pytest.raises(nb.SkipBudgetError) as caught:
        run(make(data), "bad", **options)
    assert f"Step 3, replayed: {CULPRITS[fault]}" in str(caught.value)
    assert "max_rollbacks is 0" in str(caught.value)
    first, *later = events("refused")
    assert first["culprit"].startswith(CULPRITS[fault])
    assert [event["culprit"] for event in later] == [None] * 3  # one replay
    report = Path("bad/report.html").read_text()
    assert CULPRITS[fault].partition(";")[0] in report


def test_replay_leaves_the_run_as_it_would_be_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_dropout() -> nb.Task:
        task = make(spoil(columns(), "input nan"))
        task.model.body.append(nn.Dropout(0.3))  # type: ignore[union-attr, operator]
        return task

    looked = with_dropout()
    run(looked, "bad", epochs=2)
    monkeypatch.setattr("nbutils.train.culprit.MAX_REPLAYS", 0)
    plain = with_dropout()
    run(plain, "good", epochs=2)
    assert [e["culprit"] is None for e in events("refused")] == [False, False]
    assert_same(dict(looked.model.state_dict()), dict(plain.model.state_dict()))
    assert_same(saved("bad"), saved("good"))


def test_bad_stretch_in_the_middle_is_survived_by_one_rollback() -> None:
    data = columns(20)
    for batch in range(8, 14):
        spoil(data, "input nan", batch)
    task = make(data)
    result = run(task, "bad", save_every_steps=3)
    assert (result.stop_reason, result.skipped) == ("completed", 6)
    (event,) = events("rollback")
    assert (event["step"], event["to_step"]) == (12, 9)  # before step 12 was saved
    assert all(value.isfinite().all() for value in task.model.state_dict().values())
    assert "back to step 9" in Path("bad/report.html").read_text()


def test_weights_that_overflow_go_back_to_the_last_good_snapshot() -> None:
    class Jolt(nb.Callback):
        """What a single wild update does: the weights themselves are infinite."""

        def on_step_end(self, state: Any) -> None:
            if state.step == 10:
                with torch.no_grad():
                    state.model.head.weight.fill_(math.inf)

    task = make(columns(20))
    result = run(task, "bad", Jolt(), save_every_steps=4)
    assert result.stop_reason == "completed"
    (event,) = events("rollback")
    assert event["to_step"] == 8  # that of step 12 was saved with bad weights
    assert all(value.isfinite().all() for value in task.model.state_dict().values())


class Odd:
    """What a safe load refuses."""


class Samples(Dataset[Any]):
    """Each batch holds an object beside its tensors."""

    def __init__(self, make_object: Any, count: int) -> None:
        self.data, self.make_object = columns(count), make_object
        self.data["x"][:] = math.nan

    def __len__(self) -> int:
        return len(self.data["y"])

    def __getitem__(self, index: int) -> Any:
        return {name: column[index] for name, column in self.data.items()}

    def collate(self, samples: list[Any]) -> Any:
        batch = {name: torch.stack([s[name] for s in samples]) for name in samples[0]}
        return {**batch, "note": self.make_object()}


@pytest.mark.parametrize(
    ("make_object", "is_whole"), [(Odd, True), (lambda: lambda: None, False)]
)
def test_odd_batch_is_saved_with_the_way_to_read_it(
    make_object: Any, is_whole: bool
) -> None:
    samples = Samples(make_object, 4)
    options = {"max_consecutive_refusals": 0}
    task = make(samples, collate=samples.collate)
    with pytest.raises(nb.NonFiniteStepError, match=r"read it with torch\.load"):
        run(task, "bad", **options)
    (event,) = events("refused")
    told = [e["text"] for e in events("message") if "cannot be pickled" in e["text"]]
    if is_whole:
        assert event["how_to_load"].startswith("torch.load(path, weights_only=False)")
        (batch,) = torch.load(event["batch_file"], weights_only=False)
        assert isinstance(batch["note"], Odd)
    else:
        (batch,) = torch.load(event["batch_file"], weights_only=True)
        assert len(told) == 1
    assert batch["x"].isnan().all()


def test_refused_graphs_say_how_they_are_read() -> None:
    geometric = pytest.importorskip("torch_geometric.data")
    x = torch.ones(3, 2)
    graphs = [geometric.Data(x=x * (math.nan if i == 5 else 1)) for i in range(16)]

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, batch: Any) -> Tensor:
            return self.layer(batch.x).mean(0)

    task = nb.Task(Pool(), lambda outputs, batch: outputs.square().mean(), graphs)
    run(task, "bad")
    (event,) = events("refused")
    assert "torch.load(path, weights_only=" in event["how_to_load"]
    (batch,) = torch.load(event["batch_file"], weights_only=False)
    assert batch.num_graphs == SIZE
    assert "the batch itself holds NaN at x (6 of 48 values)" in event["culprit"]


def test_refused_batches_on_disk_are_bounded_and_that_is_told() -> None:
    data = columns(24)
    for batch in range(0, 24, 2):
        spoil(data, "input nan", batch)
    result = run(make(data), "bad", max_refused_fraction=1.0)
    assert result.skipped == 12
    assert len(list(Path("bad/refused").iterdir())) == 10
    assert [e["batch_file"] is None for e in events("refused")] == [False] * 10 + [
        True
    ] * 2
    told = [e["text"] for e in events("message") if "10 refused batches" in e["text"]]
    assert len(told) == 1


def test_refused_batch_that_cannot_be_written_does_not_end_the_run() -> None:
    Path("bad").mkdir()
    Path("bad/refused").write_text("in the way")
    assert run(make(spoil(columns(), "input nan")), "bad").skipped == 1
    (event,) = events("refused")
    assert event["batch_file"] is None
    (told,) = [e["text"] for e in events("message") if "is not saved: " in e["text"]]
    assert "of step 4 is not saved: [Errno 17] File exists" in told


def test_saved_view_leaves_the_rest_of_its_storage_behind() -> None:
    class Views(Dataset[Any]):
        def __init__(self) -> None:
            self.all = torch.full((2_000_000, 1), math.nan)

        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> Tensor:
            return self.all[index]

    data = Views()
    task = nb.Task(
        nn.Linear(1, 1),
        lambda outputs, batch: outputs.mean(),
        data,
        collate=lambda samples: data.all[: len(samples)],
    )
    with pytest.raises(nb.SkipBudgetError):
        run(task, "bad", epochs=9)
    sizes = [path.stat().st_size for path in Path("bad/refused").iterdir()]
    assert max(sizes) < 10_000
