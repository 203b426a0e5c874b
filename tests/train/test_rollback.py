"""Once back to the last good snapshot, then on past the refused windows."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nbutils as nb
from nbutils.monitor.events import Event, read_events
from nbutils.testing import assert_same, weights
from nbutils.train import rollback as module
from nbutils.train.rollback import Rollback, all_finite
from nbutils.train.state import RunState

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "shuffle": False,
    "preflight": "skip",
    "panel": "off",
    "ema_decay": 0.9,
}


class Watched(nn.Module):
    """A loss with a learnt weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Tensor, batch: Any) -> Tensor:
        error = nn.functional.cross_entropy(outputs, batch[1])
        return error * self.weight.exp() + self.weight**2


def make(bad: range = range(0), num_samples: int = 40) -> nb.Task:
    """Ten batches of four; the samples of ``bad`` hold NaN."""
    torch.manual_seed(3)
    x = torch.randn(num_samples, 5)
    y = (x[:, 0] > 0).long()
    x[bad.start : bad.stop] = math.nan
    good = torch.randn(8, 5)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
    )
    return nb.Task(model, Watched(), (x, y), (good, (good[:, 0] > 0).long()))


def run(task: nb.Task, *callbacks: Any, folder: str = "a", **more: Any) -> Any:
    options = {**SETTINGS, **more}
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **options
    ).train()


def events(kind: str, folder: str = "a") -> list[Event]:
    found = read_events(Path(folder) / "events.jsonl")
    return [event for event in found if event["kind"] == kind]


class StopAt(nb.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            state.request_stop("enough")


class Spy(nb.Callback):
    """Copies everything right after a step."""

    def __init__(self, task: nb.Task, *steps: int) -> None:
        self.task, self.steps = task, steps
        self.seen: dict[int, dict[str, Tensor]] = {}
        self.lr: dict[int, float] = {}

    def on_step_end(self, state: Any) -> None:
        self.lr[state.step] = state.lr
        if state.step in self.steps:
            self.seen[state.step] = weights(self.task)


def test_run_with_a_bad_stretch_goes_back_once_and_completes() -> None:
    task = make(range(12, 28))  # batches 3 to 6 of each epoch
    spy = Spy(task, 2, 3, 7)
    result = run(task, spy, epochs=1, save_every_steps=2)
    assert result.stop_reason == "completed"
    assert (result.steps, result.skipped) == (10, 4)
    (event,) = events("rollback")
    assert (event["step"], event["to_step"]) == (7, 6)
    assert "4 updates in a row" in event["reason"]
    assert all(torch.isfinite(v).all() for v in weights(task).values())
    assert_same(spy.seen[7], spy.seen[3])  # refused windows had moved nothing


def test_rolled_back_state_is_the_snapshot_bit_for_bit() -> None:
    # refused one by one, so that weights move between snapshot and rollback
    task = make()
    task.train_data.tensors[0][[8, 16, 20, 24, 28]] = math.nan  # batches 2, 4, 5, 6, 7
    spy = Spy(task, 4, 5, 8)
    result = run(task, spy, epochs=1, save_every_steps=4, schedule="cosine")
    (event,) = events("rollback")
    assert (event["step"], event["to_step"]) == (7, 4)
    assert result.skipped == 5
    state = torch.load("a/checkpoints/step-00000010/state.pt", weights_only=True)
    assert state["parts"]["state"]["rollbacks"] == 1


class Bench:
    """Model, optimizer and average with a rollback over snapshots in a list."""

    def __init__(self, optimizer: str = "AdamW", limit: int = 1) -> None:
        from nbutils.checkpoint.snapshot import collect
        from nbutils.monitor.events import EventLog
        from nbutils.running import restore_but_rng
        from nbutils.train.ema import Ema
        from nbutils.train.precision import Precision

        torch.manual_seed(0)
        self.model, self.loss = nn.Linear(3, 2), Watched()
        parameters = [*self.model.parameters(), *self.loss.parameters()]
        self.optimizer = getattr(torch.optim, optimizer)(parameters, lr=0.1)
        self.ema = Ema(self.model, 0.9)
        self.precision = Precision("fp16", torch.device("cpu"))
        self.parts: dict[str, Any] = {
            "optimizer": self.optimizer,
            "ema": self.ema,
            "loss": self.loss,
            "precision": self.precision,
        }
        self.snapshots: list[Any] = []
        self.events = EventLog("events.jsonl")
        self.rollback = Rollback(
            self.model,
            self.parts,
            limit,
            self.events,
            snapshots=lambda: list(self.snapshots),
            take=collect,
            restore=restore_but_rng,
        )

    def train(self, steps: int) -> None:
        for _ in range(steps):
            batch = torch.randn(4, 3), torch.randint(2, (4,))
            self.loss(self.model(batch[0]), batch).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.update()
            self.precision.scale.value.mul_(0.5)  # type: ignore[union-attr]

    def everything(self) -> dict[str, Any]:
        found: dict[str, Any] = {**self.model.state_dict(), **self.loss.state_dict()}
        for key, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"{key}.{name}": value for name, value in moments.items()}
        shadow: Any = self.ema.state_dict()["shadow"]
        found |= {f"ema.{name}": value for name, value in shadow.items()}
        found["updates"] = torch.tensor(self.ema.state_dict()["num_updates"])
        found["scale"] = self.precision.state_dict()["value"]
        return copy.deepcopy(found)

    def save(self, step: int) -> None:
        from nbutils.checkpoint.snapshot import collect

        self.snapshots.insert(0, collect(step, self.model, self.parts))


@pytest.fixture
def bench() -> Any:
    made = Bench()
    with made.events:
        yield made


def test_rollback_restores_all_but_the_schedule_and_the_generators(bench: Any) -> None:
    bench.train(3)
    bench.save(3)
    before = bench.everything()
    bench.train(2)
    bench.optimizer.param_groups[0]["lr"] = 0.025  # where the schedule stands
    draws = torch.get_rng_state()
    state = RunState(step=9)
    bench.rollback(state, "Why.")
    assert_same(before, bench.everything())
    assert bench.optimizer.param_groups[0]["lr"] == 0.025
    assert torch.equal(draws, torch.get_rng_state())
    assert (state.step, state.rollbacks, state.rolled_back_to) == (9, 1, 3)


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Adagrad"])
def test_rollback_to_the_start_is_as_new(optimizer: str) -> None:
    bench = Bench(optimizer)
    with bench.events:
        new = bench.everything()
        bench.rollback.on_fit_start(RunState())
        bench.train(3)
        bench.rollback(RunState(step=3), "Why.")
        assert_same(new, bench.everything())
        bench.train(1)


def test_rollback_second_time_is_the_error_that_tells_all(bench: Any) -> None:
    bench.save(3)
    state = RunState(step=9)
    bench.rollback(state, "Why.")
    resumed = RunState()
    resumed.load_state_dict(state.state_dict())
    with pytest.raises(
        nb.SkipBudgetError,
        match=r"^Why\. The run was rolled back once, to step 3, .* resume with a lower",
    ):
        bench.rollback(resumed, "Why.")


def test_rollback_switched_off_says_so() -> None:
    bench = Bench(limit=0)
    with bench.events:
        bench.rollback.on_fit_start(RunState())
        with pytest.raises(nb.SkipBudgetError, match="max_rollbacks is 0"):
            bench.rollback(RunState(step=9), "Why.")


def test_rollback_skips_snapshots_with_nan(bench: Any) -> None:
    bench.train(1)
    bench.save(1)
    with torch.no_grad():
        bench.model.weight[0, 0] = math.nan
    bench.save(2)
    state = RunState(step=9)
    bench.rollback(state, "Why.")
    assert state.rolled_back_to == 1
    (told,) = [e for e in read_events("events.jsonl") if e["kind"] == "message"]
    assert "the checkpoint of step 2 holds non-finite weights" in told["text"]


def test_rollback_without_any_snapshot_is_an_error(bench: Any) -> None:
    with pytest.raises(nb.SkipBudgetError, match="no snapshot with finite weights"):
        bench.rollback(RunState(step=9), "Why.")


def test_start_copy_goes_with_the_first_checkpoint_and_is_not_taken_on_resume(
    bench: Any,
) -> None:
    bench.rollback.on_fit_start(RunState(step=4))
    with pytest.raises(nb.SkipBudgetError):
        bench.rollback(RunState(step=9), "Why.")
    bench.rollback.on_fit_start(RunState())
    bench.rollback.on_checkpoint(RunState(step=2))
    with pytest.raises(nb.SkipBudgetError):
        bench.rollback(RunState(step=9), "Why.")


def test_start_copy_that_is_too_large_is_told(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 40)
    bench.rollback.on_fit_start(RunState())
    (told,) = [e for e in read_events("events.jsonl") if e["kind"] == "message"]
    assert "no copy of the start is kept in memory" in told["text"]
    with pytest.raises(nb.SkipBudgetError):
        bench.rollback(RunState(step=9), "Why.")


def test_all_finite_knows_masks_from_weights() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("mask", torch.full((1,), -math.inf))
    assert all_finite(model, model.state_dict())
    with torch.no_grad():
        model.bias.fill_(math.inf)
    assert not all_finite(model, model.state_dict())


def test_run_before_its_first_checkpoint_goes_back_to_the_start() -> None:
    task = make(range(8, 24))
    spy = Spy(task, 5)
    result = run(task, spy, epochs=1)
    assert (result.stop_reason, result.skipped) == ("completed", 4)
    assert [event["to_step"] for event in events("rollback")] == [0]


def test_run_that_stays_bad_ends_with_the_reason() -> None:
    task = make(range(12, 40))
    with pytest.raises(nb.SkipBudgetError) as caught:
        run(task, save_every_steps=2)
    text = str(caught.value)
    assert "4 updates in a row" in text
    assert "rolled back once, to step 6" in text
    assert "refused before the weights changed" in text
    assert "the batch itself holds NaN at 0" in text
    assert "a lower lr" in text
    (event,) = events("rollback")
    assert event["to_step"] == 6
    record = json.loads(Path("a/run.json").read_text())
    assert record["status"] == "failed"
    assert all(torch.isfinite(v).all() for v in weights(task).values())


def test_resume_gets_no_second_rollback() -> None:
    bad = range(12, 28)
    run(make(bad), StopAt(9), epochs=2, save_every_steps=2)
    with pytest.raises(nb.SkipBudgetError, match="rolled back once, to step 6"):
        run(make(bad), epochs=2, save_every_steps=2)
    assert len(events("rollback")) == 1


@pytest.mark.parametrize("stop", [8, 12, 25])
def test_stop_after_a_rollback_equals_continue(stop: int) -> None:
    options = {"save_every_steps": 2, "max_refused_fraction": 1.0, "max_rollbacks": 9}
    bad = range(12, 28)
    whole = make(bad)
    expected = run(whole, folder="whole", **options)
    parts = make(bad)
    run(parts, StopAt(stop), folder="parts", **options)
    parts = make(bad)
    result = run(parts, folder="parts", **options)
    assert_same(weights(whole), weights(parts))
    assert result.steps == expected.steps
    assert result.skipped == expected.skipped == 12
    assert len(events("rollback", "parts")) == 3
