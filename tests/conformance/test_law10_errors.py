"""Law 10: an error is raised or, of a mere view, counted and told; never swallowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_laws import Rows, Watch, events_of, fresh_dir, net, train
from torch import Tensor, nn

import nbutils as nb
from nbutils.tracking.tensorboard import TensorBoardTracker
from nbutils.train.recorder import Recorder

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 4}


class Mine(Exception):
    """An error that nobody else raises."""


def columns() -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()


def make_task(**parts: Any) -> nb.Task:
    x, y = columns()
    own = {"model": net(), "loss": nn.CrossEntropyLoss(), "train_data": (x, y)}
    return nb.Task(**{**own, "val_data": (x, y), **parts})


def fail(*_args: Any, **_kwargs: Any) -> Any:
    raise Mine("this is mine")


def after(count: int, usual: Any) -> Any:
    """A function that fails at its ``count``-th call."""
    calls = iter(range(1, 10**6))

    def run(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            fail()
        return usual(*args, **kwargs)

    return run


class Cracked(Rows):
    """One sample cannot be read."""

    def __getitem__(self, index: int) -> Any:
        if index == 7:
            fail()
        return super().__getitem__(index)


class Weak(nn.Module):
    """A model that fails in the middle of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()
        self.run = after(4, self.inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def forward(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])


def loss(outputs: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def mean_hit(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs.argmax(1) == batch[1]).float().mean()


PLACES: dict[str, Any] = {
    "model": lambda: {"model": Weak()},
    "loss": lambda: {"loss": after(5, loss)},
    "forward": lambda: {"forward": after(5, forward)},
    "metric": lambda: {"metrics": {"hit": after(5, mean_hit)}},
    "count_targets": lambda: {"count_targets": after(5, lambda batch: len(batch[0]))},
    "train data": lambda: {"train_data": Cracked(*columns())},
    "validation data": lambda: {"val_data": Cracked(*columns())},
    "collate": lambda: {
        "train_data": Rows(*columns()),
        "collate": after(5, torch.utils.data.default_collate),
    },
    "optimizer": lambda: {"make_optimizer": fail},
    "schedule": lambda: {"make_schedule": fail},
}


@pytest.mark.parametrize("place", PLACES)
def test_error_in_the_users_code_is_raised_as_it_is(place: str) -> None:
    folder, watch = fresh_dir(), Watch()
    with pytest.raises(Mine, match="this is mine") as caught:
        train(make_task(**PLACES[place]()), folder, watch, **OPTIONS)
    assert watch.ends == (0 if place in ("optimizer", "schedule") else 1)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["stop_reason"] == "Mine: this is mine"
    (end,) = events_of(folder, "run_end")
    assert end["reason"] == "Mine: this is mine"
    notes = " ".join(getattr(caught.value, "__notes__", []))
    if place == "train data":
        assert "while reading sample 7 of 'train'" in notes
    if place == "validation data":
        assert "while reading sample 7 of 'val'" in notes


def test_error_in_a_loader_worker_is_raised_with_its_name() -> None:
    task = make_task(train_data=Cracked(*columns()))
    with pytest.raises(Mine, match="this is mine"):
        train(task, None, **OPTIONS, num_workers=2)


def test_error_before_the_first_window_is_raised_and_the_folder_stays_usable() -> None:
    folder = fresh_dir()
    with pytest.raises(Mine):
        train(make_task(make_optimizer=fail), folder, **OPTIONS)
    assert train(make_task(), folder, **OPTIONS).stop_reason == "completed"


def test_failing_tracker_is_counted_told_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorboard")
    calls: list[str] = []

    def write(_self: Any, event: dict[str, Any]) -> None:
        calls.append(event["kind"])
        raise ConnectionError("the service is down")

    monkeypatch.setattr(TensorBoardTracker, "write", write)
    folder = fresh_dir()
    options = {**OPTIONS, "tracker": "tensorboard", "log_every_steps": 1}
    result = train(make_task(), folder, **options)
    assert result.stop_reason == "completed"
    told = [
        e["text"] for e in events_of(folder, "message") if "service is" in e["text"]
    ]
    assert len(told) == 1
    assert "TensorBoard failed: ConnectionError" in told[0]
    assert calls.count("step") == result.steps  # it was asked each time
    assert len(events_of(folder, "step")) == result.steps


def test_tracker_that_cannot_finish_is_told_and_the_result_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(TensorBoardTracker, "finish", fail)
    folder = fresh_dir()
    result = train(make_task(), folder, **OPTIONS, tracker="tensorboard")
    assert result.stop_reason == "completed"
    told = [event["text"] for event in events_of(folder, "message")]
    assert "tracker could not be finished: Mine: this is mine" in told


def test_event_log_is_no_mere_view_and_its_failure_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch()
    monkeypatch.setattr(Recorder, "on_step_end", fail)
    with pytest.raises(Mine):
        train(make_task(), None, watch, **OPTIONS)
    assert watch.ends == 1


def test_folder_that_cannot_be_saved_to_raises_and_loses_no_checkpoint() -> None:
    class Block(nb.Callback):
        """Puts a file where the next checkpoints have to go."""

        def on_epoch_end(self, state: Any) -> None:
            folder = state.run_dir / "checkpoints"
            if state.epoch == 1 and folder.exists():
                folder.rename(folder.with_name("aside"))
            if state.epoch == 1:
                folder.write_text("in the way")

    folder, watch = fresh_dir(), Watch()
    with pytest.raises(nb.CheckpointError, match="could not be saved"):
        train(make_task(), folder, Block(), watch, **OPTIONS, save_every_steps=1)
    assert watch.ends == 1
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    kept = sorted((folder / "aside").glob("step-*"))
    assert kept
    (folder / "checkpoints").unlink()
    (folder / "aside").rename(folder / "checkpoints")
    assert train(make_task(), folder, **OPTIONS).stop_reason == "completed"


def test_callback_with_a_hook_that_is_none_is_refused_before_the_run() -> None:
    class Typo(nb.Callback):
        def on_epoch_ends(self, state: Any) -> None: ...

    with pytest.raises(nb.ConfigError, match="did you mean on_epoch_end"):
        train(make_task(), Path("never"), Typo(), **OPTIONS)
    assert not Path("never").exists()


def test_error_of_the_run_is_not_hidden_by_one_of_its_end() -> None:
    class Late(nb.Callback):
        def on_fit_end(self, state: Any) -> None:
            raise KeyError("at the end")

    with pytest.raises((Mine, KeyError)) as caught:
        train(make_task(loss=after(3, loss)), None, Late(), **OPTIONS)
    chain, seen = caught.value, []
    while chain is not None:
        seen.append(type(chain).__name__)
        chain = chain.__cause__ or chain.__context__
    assert "Mine" in seen
