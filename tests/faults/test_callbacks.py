"""Errors of others in a run: what must end it leaves it whole; views do not end it."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nbutils as nb
from nbutils.monitor.events import EventLog, read_events
from nbutils.testing import assert_same, make_task, weights
from nbutils.tracking import views
from nbutils.tracking.tracker import NoTracker

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "preflight": "skip",
    "panel": "off",
    "save_every_epochs": None,
    "ema_decay": 0.9,
    "schedule": "cosine",
}
HOOKS = [
    "on_fit_start",
    "on_epoch_start",
    "on_step_end",
    "on_evaluate_end",
    "on_checkpoint",
    "on_epoch_end",
    "on_stop",
    "on_fit_end",
]


class Failing(nb.Callback):
    """Raises at the ``number``-th call of one hook; counts the ends of fits."""

    def __init__(self, hook: str, number: int = 1) -> None:
        self.num_ends = 0
        self._left = number
        self._hook = hook
        inner = getattr(self, hook)

        def fail(state: Any) -> None:
            inner(state)
            self._left -= 1
            if self._left == 0:
                raise ValueError(f"my {hook} failed")

        setattr(self, hook, fail)

    def on_fit_end(self, state: Any) -> None:
        self.num_ends += 1


def run(task: nb.Task, folder: Path, *callbacks: Any, **more: Any) -> nb.TrainResult:
    options = {**SETTINGS, **more}
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **options
    ).train()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the run that nothing happened to."""
    task = make_task()
    run(task, tmp_path_factory.mktemp("whole") / "run")
    return weights(task)


@pytest.fixture(autouse=True)
def handlers_stay() -> Any:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def kinds(folder: Path) -> list[str]:
    return [event["kind"] for event in read_events(folder / "events.jsonl")]


def texts(folder: Path) -> list[str]:
    events = read_events(folder / "events.jsonl")
    return [event["text"] for event in events if event["kind"] == "message"]


@pytest.mark.parametrize("hook", HOOKS)
def test_failing_hook_ends_the_run_once_and_it_resumes_bit_for_bit(
    tmp_path: Path, hook: str, whole: dict[str, torch.Tensor]
) -> None:
    number = {"on_step_end": 7, "on_epoch_start": 2}.get(hook, 1)
    failing, other = Failing(hook, number), Failing("on_stop", 99)
    with pytest.raises(ValueError, match=f"my {hook} failed") as caught:
        run(make_task(), tmp_path / "run", failing, other)
    notes = "\n".join(getattr(caught.value, "__notes__", []))
    assert f".{hook} at step" in notes
    assert "could not be saved" not in notes
    assert (failing.num_ends, other.num_ends) == (1, 1)
    assert record_of(tmp_path / "run")["status"] == "failed"
    assert kinds(tmp_path / "run")[-1] == "run_end"
    resumed = make_task()
    result = run(resumed, tmp_path / "run")
    assert list(result.history["epoch"]) == [1, 2, 3]
    assert_same(weights(resumed), whole)


@pytest.mark.parametrize("step", [1, 2, 5, 6, 14, 15])
def test_failing_hook_at_any_step_resumes_in_the_same_process_too(
    tmp_path: Path, step: int, whole: dict[str, torch.Tensor]
) -> None:
    task = make_task()  # its weights have moved when it is trained again
    with pytest.raises(ValueError, match="my on_step_end failed"):
        run(task, tmp_path / "run", Failing("on_step_end", step))
    run(task, tmp_path / "run")
    assert_same(weights(task), whole)


def broken_metric(outputs: Any, batch: Any) -> Any:
    raise ZeroDivisionError("no positives in this batch")


class BrokenRows:
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        if index == 11:
            raise OSError("the file is cut off")
        return torch.zeros(6), 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"metrics": {"f1": broken_metric}}, ZeroDivisionError, "no positives"),
        ({"val_data": BrokenRows()}, OSError, "the file is cut off"),
    ],
)
def test_failing_validation_ends_the_run_and_it_resumes_bit_for_bit(
    tmp_path: Path,
    change: dict[str, Any],
    error: type[Exception],
    words: str,
    whole: dict[str, torch.Tensor],
) -> None:
    task = make_task()
    for name, value in change.items():
        setattr(task, name, value)
    ends = Failing("on_stop", 99)
    with pytest.raises(error, match=words):
        run(task, tmp_path / "run", ends)
    assert ends.num_ends == 1
    assert task.model.training
    record = record_of(tmp_path / "run")
    assert (record["status"], record["step"], record["epoch"]) == ("failed", 5, 0)
    resumed = make_task()
    result = run(resumed, tmp_path / "run")
    assert list(result.history["epoch"]) == [1, 2, 3]
    assert_same(weights(resumed), whole)


def test_failing_forward_leaves_the_last_checkpoint_in_charge(
    tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    task = make_task()
    calls = iter(range(100))

    def forward(model: Any, batch: Any) -> Any:
        if next(calls) == 9:  # the third window of the second epoch
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return model(batch[0])

    task.forward_function = forward
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(task, tmp_path / "run", save_every_steps=3)
    assert record_of(tmp_path / "run")["step"] == 7
    folders = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert max(int(folder.name[5:]) for folder in folders) == 6
    resumed = make_task()
    run(resumed, tmp_path / "run")
    assert_same(weights(resumed), whole)


class FailingTracker(NoTracker):
    def __init__(self, *, in_write: bool, in_finish: bool) -> None:
        self.in_write, self.in_finish, self.num_finished = in_write, in_finish, 0

    def write(self, event: Any) -> None:
        if self.in_write and event["kind"] == "step":
            raise ConnectionError("the service is down")

    def finish(self, exit_code: int = 0) -> None:
        self.num_finished += 1
        if self.in_finish:
            raise ConnectionError("the service is still down")


@pytest.mark.parametrize(("in_write", "in_finish"), [(True, False), (False, True)])
def test_failing_tracker_is_told_once_and_training_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_write: bool,
    in_finish: bool,
    whole: dict[str, torch.Tensor],
) -> None:
    tracker = FailingTracker(in_write=in_write, in_finish=in_finish)
    monkeypatch.setattr(views, "make_tracker", lambda *_: tracker)
    task = make_task()
    assert run(task, tmp_path / "run", log_every_steps=1).stop_reason == "completed"
    assert tracker.num_finished == 1
    assert len([text for text in texts(tmp_path / "run") if "service is" in text]) == 1
    assert_same(weights(task), whole)


class FailingPanel:
    def __init__(self, *, in_close: bool) -> None:
        self.in_close = in_close

    def update(self, event: Any) -> None:
        if not self.in_close:
            raise RuntimeError("the display is gone")

    def close(self) -> None:
        if self.in_close:
            raise RuntimeError("the display is gone")


@pytest.mark.parametrize("in_close", [True, False])
def test_failing_panel_is_told_once_and_training_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_close: bool,
    whole: dict[str, torch.Tensor],
) -> None:
    monkeypatch.setattr(views, "make_panel", lambda *_: FailingPanel(in_close=in_close))
    task = make_task()
    assert run(task, tmp_path / "run").stop_reason == "completed"
    assert len([text for text in texts(tmp_path / "run") if "display" in text]) == 1
    assert_same(weights(task), whole)


class FullDisk:
    """A log's file that takes nothing any more, or half of a line."""

    def __init__(self, file: Any, *, half: bool) -> None:
        self._file, self._half = file, half

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, line: bytes) -> int:
        if self._half:
            return self._file.write(line[: len(line) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def fill_disk(log: EventLog, *, half: bool) -> Callable[[], None]:
    file = log._file
    log._file = FullDisk(file, half=half)

    def free() -> None:
        log._file = file

    return free


@pytest.mark.parametrize("half", [False, True])
def test_full_disk_under_the_event_log_ends_the_run_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    half: bool,
    whole: dict[str, torch.Tensor],
) -> None:
    """The log is the truth that every view is built from, so the run cannot go on."""
    tracker = FailingTracker(in_write=False, in_finish=True)
    monkeypatch.setattr(views, "make_tracker", lambda *_: tracker)
    logs: list[EventLog] = []
    opened = EventLog.__init__

    def remember(self: EventLog, path: Any) -> None:
        opened(self, path)
        logs.append(self)

    monkeypatch.setattr(EventLog, "__init__", remember)

    class Fill(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 7:
                fill_disk(logs[0], half=half)

    ends = Failing("on_stop", 99)
    with pytest.raises(nb.EnvironmentProblem, match="cannot be written") as caught:
        run(make_task(), tmp_path / "run", Fill(), ends, log_every_steps=1)
    assert "free some" in str(caught.value)
    assert ends.num_ends == 1
    assert tracker.num_finished == 1
    assert "tracker could not be finished" in capsys.readouterr().err
    monkeypatch.undo()
    read_events(tmp_path / "run" / "events.jsonl")  # every line is whole
    assert record_of(tmp_path / "run")["status"] == "failed"
    resumed = make_task()
    run(resumed, tmp_path / "run")
    assert_same(weights(resumed), whole)
