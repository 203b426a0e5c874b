"""A run in a process of its own: sent whole, found again, told when it dies."""

from __future__ import annotations

import importlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from click.testing import CliRunner
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import nbutils as nb
from nbutils.cli import main
from nbutils.launch import background, sending, spawn
from nbutils.launch.background import DetachedRun, attach
from nbutils.launch.outcome import note_failure, raise_failure
from nbutils.launch.script import launch_script
from nbutils.launch.sending import receive, send
from nbutils.monitor.events import EventLog
from nbutils.monitor.follow import life_of
from nbutils.monitor.lock import run_lock
from nbutils.monitor.process import is_alive, note_process, process_of
from nbutils.monitor.runview import RunView
from nbutils.testing import assert_same, make_task, weights

sys.path.insert(0, str(Path(__file__).parent))  # for the helper module beside this
from helpers_background import Fails, Slow


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    for child in spawn._children.values():
        child.kill()
        child.wait()
    spawn._children.clear()


def coordinator(run_dir: Path, *callbacks: Any, **more: Any) -> nb.TrainingCoordinator:
    own = {"batch_size": 8, "epochs": 4, "preflight": "skip", "panel": "off"} | more
    return nb.TrainingCoordinator(
        make_task(), run_dir=run_dir, callbacks=callbacks, **own
    )


def until(happened: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_background_ends_as_the_foreground_does_and_brings_the_weights_home(tmp_path):
    here = coordinator(tmp_path / "here")
    expected = here.train()
    there = coordinator(tmp_path / "there")
    run = there.train(background=True)
    assert isinstance(run, DetachedRun)
    assert run.alive
    assert "starting" in repr(run)
    result = run.wait()
    assert (result.stop_reason, result.steps) == ("completed", expected.steps)
    assert_same(weights(there.task), weights(here.task))
    assert there.evaluate("val") == here.evaluate("val")
    assert not run.alive
    assert "ended, finished: completed" in repr(run)
    assert list((tmp_path / "there").glob(".task-*")) == []
    assert attach(tmp_path / "there").wait().steps == expected.steps  # at once


@pytest.mark.slow
def test_background_stop_saves_and_train_goes_on(tmp_path, capsys):
    there = coordinator(tmp_path / "run", Slow(), epochs=40)
    run = there.train(background=True)
    log = tmp_path / "run" / "events.jsonl"
    until(lambda: log.exists() and '"step":10' in log.read_text())

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.wait(sleep=interrupt)
    assert "Stopped waiting; the run in" in capsys.readouterr().out
    with pytest.raises(TimeoutError, match="still trains after 0 s"):
        run.wait(0)
    with pytest.raises(nb.EnvironmentProblem, match="is under way in another process"):
        there.train(background=True)
    again = attach(tmp_path / "run")
    assert again.alive
    again.stop()
    result = again.wait()
    assert result.stop_reason == "stop file"
    assert 10 <= result.steps < 200
    again.stop()
    assert "nothing to stop" in capsys.readouterr().out
    assert not (tmp_path / "run" / "STOP").exists()
    more = coordinator(tmp_path / "run", epochs=40, max_steps=result.steps + 5)
    assert more.train().steps == result.steps + 5


@pytest.mark.slow
def test_background_failure_is_raised_where_somebody_waits(tmp_path):
    run = coordinator(tmp_path / "run", Fails()).train(background=True)
    with pytest.raises(RuntimeError, match="ValueError: the disk of my own") as caught:
        run.wait()
    assert "helpers_background.py" in str(caught.value)
    assert "in on_step_end" in str(caught.value)
    assert "ended, failed" in repr(run)
    assert "&lt;b&gt;" in run._repr_html_()


@pytest.mark.slow
def test_background_killed_is_told_with_the_end_of_its_log(tmp_path):
    own = {"epochs": 40, "panel": "auto"}
    run = coordinator(tmp_path / "run", Slow(), **own).train(background=True)
    log = tmp_path / "run" / "events.jsonl"
    until(lambda: log.exists() and '"checkpoint"' in log.read_text())
    assert run.pid is not None
    os.kill(run.pid, signal.SIGKILL)
    with pytest.raises(nb.EnvironmentProblem) as caught:
        run.wait()
    assert f"process {run.pid}" in str(caught.value)
    assert "it was killed" in str(caught.value)
    assert "train() again begins from step" in str(caught.value)
    assert "The last lines of its log:\nrun " in str(caught.value)
    assert "killed" in repr(run)
    assert "<pre>run " in run._repr_html_()


def test_background_without_a_verdict_asks_before_it_leaves(tmp_path, monkeypatch):
    asked: list[object] = []
    gate = importlib.import_module("nbutils.preflight.gate")
    monkeypatch.setattr(
        gate, "demand_verdict", lambda task, _config: asked.append(task)
    )
    monkeypatch.setattr(background, "start", lambda *parts: asked.append(parts[2]))
    there = coordinator(tmp_path / "run", preflight="run")
    there.train(background=True)
    assert asked == [there.task, tmp_path / "run"]


def test_background_of_what_cannot_be_sent_names_each_part(tmp_path):
    task = make_task()
    task.train_data = list(range(3))
    task.metrics = (n for n in range(3))
    task.extras = {"file": sys.stdout}
    run = nb.TrainingCoordinator(task, run_dir=tmp_path / "run", preflight="skip")
    with pytest.raises(nb.EnvironmentProblem) as caught:
        background.start(task, run.config, tmp_path / "run", [])
    text = str(caught.value)
    assert "cannot be sent to a process of its own" in text
    assert "metrics (generator): " in text
    assert "extras (dict): " in text
    assert "train_data" not in text
    assert list((tmp_path / "run").glob(".task-*")) == []


def test_background_in_a_folder_that_is_written_is_refused(tmp_path):
    there = coordinator(tmp_path)
    with (
        run_lock(tmp_path),
        pytest.raises(nb.EnvironmentProblem, match="one at a time"),
    ):
        there.train(background=True)


def test_send_is_for_our_eyes_only_and_read_once(tmp_path):
    task = make_task()
    path = send(tmp_path, task, None, [], {"fingerprint": "f"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    facts, received = receive(path)
    assert not path.exists()
    assert facts["fingerprint"] == "f"
    assert_same(weights(received["task"]), weights(task))


def test_send_what_a_notebook_defines_goes_by_value(tmp_path):
    loss = _of_main("def loss(out, batch):\n    return out.mean() * SCALE", SCALE=3.0)
    task = make_task()
    task.loss = loss
    _, received = receive(send(tmp_path, task, None, [], {}))
    assert received["task"].loss(torch.ones(2), None) == 3.0


def test_send_without_cloudpickle_refuses_what_a_notebook_defines(
    tmp_path, monkeypatch
):
    task = make_task()
    receive(send(tmp_path, task, None, [], {}))
    monkeypatch.setattr(sending.importlib.util, "find_spec", lambda name: None)
    assert receive(send(tmp_path, task, None, [], {}))[1]["task"].name == "Sequential"
    task.loss = _of_main("def loss(out, batch):\n    return out.mean()")
    with pytest.raises(nb.EnvironmentProblem, match="pip install cloudpickle"):
        send(tmp_path, task, None, [], {})


def _of_main(code: str, **names: Any) -> Any:
    """A function as a cell of a notebook would define it."""
    space = {"__name__": "__main__", **names}
    exec(code, space)  # noqa: S102 (our own text)
    return space["loss"]


def test_send_to_a_full_disk_says_so(tmp_path, monkeypatch):
    def full(file: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sending, "_pickler", full)
    with pytest.raises(nb.EnvironmentProblem, match="room for the model"):
        send(tmp_path, make_task(), None, [], {})
    assert list(tmp_path.iterdir()) == []


def test_receive_of_another_users_file_is_refused(tmp_path, monkeypatch):
    path = send(tmp_path, make_task(), None, [], {})
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(nb.EnvironmentProblem, match="belongs to another user"):
        receive(path)


def test_raise_failure_of_our_own_kind_keeps_its_class(tmp_path):
    note_process(tmp_path, os.getpid())
    note_failure(tmp_path, nb.ConfigError(["lr is 0; it must be positive."]))
    with pytest.raises(nb.ConfigError, match="lr is 0"):
        raise_failure(tmp_path)


def test_raise_failure_of_an_end_before_this_process_is_a_death(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_end", status="finished", reason="completed", step=3)
    note_process(tmp_path, os.getpid())
    with pytest.raises(nb.EnvironmentProblem, match="was killed"):
        raise_failure(tmp_path)


def test_raise_failure_of_a_run_of_another_kernel_tells_its_reason(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_end", status="failed", reason="ValueError: no", step=3)
    with pytest.raises(RuntimeError, match="failed: ValueError: no"):
        raise_failure(tmp_path)


def test_attach_where_there_is_no_run_says_so(tmp_path):
    with pytest.raises(nb.EnvironmentProblem, match="holds no run"):
        attach(tmp_path)
    with pytest.raises(nb.EnvironmentProblem, match="there is no run in"):
        attach()


def test_process_that_took_a_dead_ones_number_is_not_it(tmp_path):
    note_process(tmp_path, os.getpid())
    record = process_of(tmp_path)
    assert record is not None
    assert is_alive(record)
    assert is_alive(None) is False
    assert is_alive({**record, "began_s": record["began_s"] - 100}) is False
    assert is_alive({**record, "host": "elsewhere"}) is None


def test_life_of_a_process_that_died_before_it_began_is_told(tmp_path):
    note_process(tmp_path, os.getpid())
    assert life_of(tmp_path, RunView()) == "starting"
    (tmp_path / "process.json").write_text('{"pid": 1, "host": "", "began_s": 0}')
    note_process(tmp_path, 2**22 - 3)  # no such process
    assert life_of(tmp_path, RunView()) == "killed"


def test_launch_script_outlives_and_gets_its_arguments(tmp_path):
    (tmp_path / "train.py").write_text("import sys; print('got', sys.argv[1:])")
    done = CliRunner().invoke(main, ["launch", "train.py", "--lr", "3"])
    assert done.exit_code == 0, done.output
    log = next((tmp_path / "runs").glob("train-*.log"))
    assert log.name in done.stdout
    until(lambda: "got" in log.read_text())
    assert log.read_text() == "got ['--lr', '3']\n"
    until(lambda: spawn.fetch_dead() or not spawn._children)


def test_launch_of_no_script_says_so():
    done = CliRunner().invoke(main, ["launch", "absent.py"])
    assert done.exit_code == 1
    assert "absent.py is not a file" in done.stderr


def test_launch_config_with_arguments_is_a_usage_error():
    done = CliRunner().invoke(main, ["launch", "vision/quick", "epochs=3"])
    assert done.exit_code == 2
    assert "a config takes -p key=value" in done.stderr


def test_launch_script_without_room_says_so(tmp_path):
    (tmp_path / "train.py").touch()
    (tmp_path / "runs").touch()
    with pytest.raises(nb.EnvironmentProblem, match="cannot be written"):
        launch_script("train.py", ())


NOTEBOOK = """
import time
import torch
import nbutils as nb

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 2)

    def forward(self, x):
        return self.layer(x) * SCALE

SCALE = 2.0
loss = lambda outputs, batch: torch.nn.functional.cross_entropy(outputs, batch[1])
x = torch.randn(40, 6)
data = x, (x[:, 0] > 0).long()
task = nb.Task(Net(), loss, data, data)
own = dict(batch_size=8, epochs=3, preflight="skip", run_dir="runs/mine")
trainer = nb.TrainingCoordinator(task, **own)
run = trainer.train(background=True)
---
result = run.wait()
assert result.stop_reason == "completed", result
print("loss", trainer.evaluate("val")["loss"] == result.metrics["val_loss"])
---
nb.show_run()
"""


@pytest.mark.slow
def test_background_in_a_headless_notebook_runs_all_and_ends_green(tmp_path):
    cells = [nbformat.v4.new_code_cell(text) for text in NOTEBOOK.split("---\n")]
    book = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        book, timeout=120, resources={"metadata": {"path": tmp_path}}
    ).execute()
    text = nbformat.writes(book)
    assert "loss True" in text
    assert "run ended: finished" in text
    assert text.count('"text/html"') == 2  # the page of wait() and of show_run()
    assert "widget-view" not in text
    assert "widgets" not in book.metadata
    assert len(text) < 100_000


KERNEL = """
import sys
sys.path.insert(0, {folder!r})
import nbutils as nb
from helpers_background import Slow
from nbutils.testing import make_task
own = dict(batch_size=8, epochs=10, preflight="skip", run_dir={run_dir!r})
run = nb.TrainingCoordinator(make_task(), callbacks=[Slow()], **own).train(
    background=True
)
"""


@pytest.mark.slow
def test_background_outlives_its_kernel(tmp_path):
    run_dir, sockets = str(tmp_path / "run"), str(tmp_path / "socket")
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=sockets)
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        code = KERNEL.format(folder=str(Path(__file__).parent), run_dir=run_dir)
        reply = client.execute_interactive(code, timeout=90, output_hook=print)
        assert reply["content"]["status"] == "ok"
        manager.interrupt_kernel()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    run = attach(run_dir)
    assert run.alive
    assert run.wait(120).stop_reason == "completed"
