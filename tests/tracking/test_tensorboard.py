"""TensorBoard files, read back with TensorBoard's own reader."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import nbutils as nb
from nbutils.config import RunConfig
from nbutils.monitor.events import EventLog, read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.testing import make_task
from nbutils.tracking.factory import make_tracker
from nbutils.tracking.sync import sync_run
from nbutils.tracking.tensorboard import TensorBoardTracker

pytest.importorskip("tensorboard")


def read_back(run_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"scalars": 0, "histograms": 0}
    return EventAccumulator(str(run_dir / "tensorboard"), everything).Reload()


def steps_of(run_dir: Path, name: str = "train/loss") -> list[int]:
    return [event.step for event in read_back(run_dir).Scalars(name)]


def test_tensorboard_scalars_and_histograms_are_read_back(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "owl").create()
    tracker = make_tracker(RunConfig(tracker="tensorboard"), directory, "r")
    with EventLog(directory.events_path) as log:
        log.subscribe(tracker.write)
        log.write("run_start", step=0)
        for step in range(1, 21):
            log.write("step", step=step, epoch=0, loss=1 / step, terms={"kl": 0.5})
        log.write("step", step=21, epoch=0, loss=math.nan)
        log.write("monitor", step=21, values={"host/rss_bytes": 5})
        edges, counts = [-1.0, 0.0, 2.0], [3, 1]
        log.write("histogram", step=21, name="gradients", edges=edges, counts=counts)
        log.write("examples", step=21, best=[], worst=[])
        log.write("evaluate", step=21, split="val", metrics={"val_accuracy": 0.75})
        tracker.finish(0)
        tracker.finish(0)
        log.write("step", step=22, epoch=0, loss=0.5)
        assert log.num_failures == {}

    found = read_back(directory.path)
    losses = found.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 22))
    assert losses[3].value == pytest.approx(0.25)
    assert math.isnan(losses[-1].value)
    assert found.Scalars("val/accuracy")[0].value == pytest.approx(0.75)
    assert found.Scalars("train/terms/kl")[0].value == pytest.approx(0.5)
    assert found.Scalars("host/rss_bytes")[0].value == 5
    histogram = found.Histograms("gradients")[0].histogram_value
    assert (histogram.num, histogram.min, histogram.max) == (4, -1.0, 2.0)
    assert list(histogram.bucket)[-2:] == [3, 1]


def test_tensorboard_that_cannot_close_raises_for_its_views_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TensorBoardTracker.finish

    def fail(self: TensorBoardTracker, exit_code: int = 0) -> None:
        real(self, exit_code)
        raise OSError("no space")

    monkeypatch.setattr(TensorBoardTracker, "finish", fail)
    run_dir = tmp_path / "run"
    coordinator = nb.TrainingCoordinator(
        make_task(), run_dir=run_dir, epochs=1, tracker="tensorboard"
    )
    assert coordinator.train().stop_reason == "completed"
    texts = [e["text"] for e in read_events(run_dir / "events.jsonl") if "text" in e]
    assert len([text for text in texts if "no space" in text]) == 1


class StopAt(nb.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            state.request_stop("test")


def train(run_dir: Path, *callbacks: Any, **settings: Any) -> nb.TrainResult:
    chosen = {"epochs": 3, "batch_size": 8, "log_every_steps": 1, **settings}
    chosen = {"tracker": "tensorboard", "panel": "off", **chosen}
    task = make_task()
    run = nb.TrainingCoordinator(
        task, run_dir=run_dir, callbacks=list(callbacks), **chosen
    )
    return run.train()


def test_tensorboard_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    train(tmp_path / "run", StopAt(7))
    train(tmp_path / "run")
    assert steps_of(tmp_path / "run") == list(range(1, 16))
    assert steps_of(tmp_path / "run", "epoch/val_loss") == [5, 10, 15]
    assert steps_of(tmp_path / "run", "events/resume") == [7]


def test_tensorboard_switched_on_late_shows_the_whole_run(tmp_path: Path) -> None:
    train(tmp_path / "run", StopAt(7), tracker="none")
    train(tmp_path / "run")
    assert steps_of(tmp_path / "run") == list(range(1, 16))


def test_tensorboard_hides_steps_that_a_resume_went_back_behind(tmp_path: Path) -> None:
    """A killed process leaves steps beyond its last checkpoint: they are done again."""
    run_dir = tmp_path / "run"
    train(run_dir, StopAt(7))
    with EventLog(run_dir / "events.jsonl") as log:  # as a process that was killed
        log.write("resume", step=7, epoch=1)
        log.write("run_start", step=7, epoch=1)
        for step in (8, 9):
            log.write("step", step=step, epoch=1, loss=-1.0)
    train(run_dir)
    losses = read_back(run_dir).Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 16))
    assert min(event.value for event in losses) > 0


def test_sync_to_tensorboard_rebuilds_the_files_as_often_as_one_likes(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    train(run_dir, StopAt(7), tracker="none")
    train(run_dir, tracker="none")
    for _ in range(2):
        (done,) = sync_run(run_dir, "tensorboard")
        assert steps_of(run_dir) == list(range(1, 16))
    assert done.num_new == done.num_events
    assert str(run_dir / "tensorboard") in str(done)
    assert len(list((run_dir / "tensorboard").iterdir())) == 1
    assert not list(run_dir.glob("*.partial"))
    train(run_dir, epochs=4)
    assert steps_of(run_dir) == list(range(1, 21))


def test_quick_train_is_sent_nowhere(tmp_path: Path) -> None:
    """A rehearsal of two steps is no run that a service should list."""
    coordinator = nb.TrainingCoordinator(
        make_task(),
        run_dir=tmp_path / "owl",
        tracker="tensorboard",
        epochs=2,
        device="cpu",
    )
    coordinator.quick_train(2)
    assert not list(tmp_path.rglob("tensorboard"))
    assert list(tmp_path.glob("owl-quick-*/events.jsonl"))
