"""A result is the same from memory and from disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import EventLog
from nbutils.train.result import TrainResult


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of ten epochs whose third is best."""
    path = tmp_path / "night<owl"
    path.mkdir()
    with EventLog(path / "events.jsonl") as log:
        log.write("run_start", planned_steps=100, epochs=10)
        for epoch in range(1, 11):
            step = 10 * epoch
            loss = abs(epoch - 3) + 0.5
            log.write("step", step=step, epoch=epoch - 1, loss=loss, refused=2, lr=0.1)
            log.write("epoch", step=step, epoch=epoch, train_loss=loss, val_loss=loss)
            log.write("checkpoint", step=step, path=f"c/{step}", best=epoch <= 3)
        log.write("run_end", status="finished", reason="patience", seconds=75.0)
    return path


def test_from_run_rebuilds_the_result(run_dir: Path) -> None:
    result = TrainResult.from_run(run_dir)
    assert (result.stop_reason, result.steps, result.skipped) == ("patience", 100, 2)
    assert result.best["value"] == 0.5
    assert result.best["path"] == "c/30"
    assert result.metrics["val_loss"] == 7.5
    assert result.seconds == 75.0


def test_history_is_a_frame_with_a_row_per_epoch(run_dir: Path) -> None:
    history = TrainResult.from_run(run_dir).history
    assert list(history["epoch"]) == list(range(1, 11))
    assert history["val_loss"].min() == 0.5


def test_plot_saves_the_figure(run_dir: Path) -> None:
    figure = TrainResult.from_run(run_dir).plot()
    assert (run_dir / "figures" / "curves.png").stat().st_size > 1000
    assert figure.get_suptitle() == "Best val_loss 0.5, at step 30 of 100"


def test_figures_are_shown_by_name(run_dir: Path) -> None:
    result = TrainResult.from_run(run_dir)
    assert "none" in result.figures._repr_html_()
    result.plot()
    assert list(result.figures) == ["curves"]
    assert result.figures["curves"].stat().st_size > 1000
    assert repr(result.figures).startswith("1 figures in")
    assert 'alt="curves"' in result.figures._repr_html_()


def test_summary_tells_reason_work_best_and_place(run_dir: Path) -> None:
    text = str(TrainResult.from_run(run_dir))
    assert "patience" in text
    assert "100 steps, 2 refused, 10 epochs, 1:15" in text
    assert "val_loss 0.5 at step 30 (c/30)" in text
    assert str(run_dir) in text


def test_html_shows_the_last_eight_rows_and_escapes_names(run_dir: Path) -> None:
    html = TrainResult.from_run(run_dir)._repr_html_()
    assert html.count("<tr>") == 9
    assert "night&lt;owl" in html
    assert "night<owl" not in html
    assert len(html) < 12_000


def test_result_of_a_run_killed_before_its_first_epoch_says_so(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_start", planned_steps=10)
    result = TrainResult.from_run(tmp_path)
    assert "its process was killed" in result.stop_reason
    assert "no finished epoch" in result.summary()
    assert "No epoch was finished." in result._repr_html_()
    assert len(result.history) == 0
    result.plot()


def test_from_run_of_an_empty_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="holds no events of a run"):
        TrainResult.from_run(tmp_path)
