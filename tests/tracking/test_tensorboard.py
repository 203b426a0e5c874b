"""TensorBoard files, read back with TensorBoard's own reader."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nbutils.config import RunConfig
from nbutils.monitor.events import EventLog
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking.factory import make_tracker

pytest.importorskip("tensorboard")


def test_tensorboard_scalars_are_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = RunDirectory(tmp_path / "owl").create()
    tracker = make_tracker(RunConfig(tracker="tensorboard"), directory, "r")
    with EventLog(directory.events_path) as log:
        log.subscribe(tracker.write)
        for step in range(1, 21):
            log.write("step", step=step, epoch=0, loss=1 / step, terms={"kl": 0.5})
        log.write("step", step=21, epoch=0, loss=math.nan)
        log.write("evaluate", step=21, split="val", metrics={"val_accuracy": 0.75})
        tracker.finish(0)
        tracker.finish(0)
        log.write("step", step=22, epoch=0, loss=0.5)
        assert log.num_failures == {}

    found = EventAccumulator(str(directory.path / "tensorboard")).Reload()
    losses = found.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 22))
    assert losses[3].value == pytest.approx(0.25)
    assert math.isnan(losses[-1].value)
    assert found.Scalars("val/accuracy")[0].value == pytest.approx(0.75)
    assert found.Scalars("train/terms/kl")[0].value == pytest.approx(0.5)


def test_tensorboard_that_cannot_close_is_told_not_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path / "owl").create()
    tracker = make_tracker(RunConfig(tracker="tensorboard"), directory, "r")
    real = tracker._writer

    class Failing:
        def close(self) -> None:
            raise OSError("no space")

    tracker._writer = Failing()
    tracker.finish(0)
    real.close()
    assert "could not be closed (OSError: no space)" in capsys.readouterr().out
