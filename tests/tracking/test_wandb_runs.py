"""Real W&B runs, offline: every row of the log is in W&B's files, whatever happened."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tracking.child import EndAt, train
from tracking.helpers_tracking import (
    KEY,
    assert_complete,
    assert_nowhere,
    in_new_process,
    of_kind,
)

import nbutils as nb
from nbutils.monitor.events import read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.testing import make_task

wandb = pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("no_keys")
Reader = Callable[[Path], list[Any]]


@pytest.fixture(autouse=True)
def closed_service() -> Any:
    yield
    wandb.teardown()


@pytest.mark.slow
def test_interrupted_run_resumed_in_a_new_process_has_every_row(
    tmp_path: Path, read_wandb: Reader
) -> None:
    run_dir = tmp_path / "run"
    assert train(str(run_dir), EndAt("interrupt", 7)).stop_reason == "interrupt"
    code, out = in_new_process(run_dir)
    assert (code, "completed" in out) == (0, True), out
    first, second = read_wandb(run_dir)
    assert first.run.run_id == second.run.run_id
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.steps + second.steps == list(range(1, 16))
    events = assert_complete(run_dir, [first, second])
    assert len(of_kind(events, "resume")) == 1
    assert second.summary["best_metric"] == "val_loss"
    assert second.summary["stop_reason"] == "completed"
    assert first.summary["stop_reason"] == "interrupt"
    assert first.config["total_params"] == 178
    assert first.config["model_type"] == "custom"


@pytest.mark.slow
def test_killed_run_has_every_row_once_it_was_resumed(
    tmp_path: Path, read_wandb: Reader
) -> None:
    run_dir = tmp_path / "run"
    code, _ = in_new_process(run_dir, "kill", "12", "save_in_background=false")
    assert code == -signal.SIGKILL
    assert train(str(run_dir)).stop_reason == "completed"
    *_, last = files = read_wandb(run_dir)
    events = assert_complete(run_dir, files)
    redone = [event["step"] for event in of_kind(events, "step")]
    assert len(redone) > 15  # steps after the last checkpoint were done again
    assert last.summary["status"] == "finished"


class Broken(nb.Callback):
    """A loss that is NaN for a few steps."""

    is_on = False

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        found = torch.nn.functional.cross_entropy(outputs, batch[1])
        return found * float("nan") if self.is_on else found

    def on_step_end(self, state: Any) -> None:
        self.is_on = 6 <= state.step < 8


def test_run_that_is_rolled_back_has_every_row(
    tmp_path: Path, read_wandb: Reader
) -> None:
    run_dir = tmp_path / "run"
    broken = Broken()
    task = make_task()
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 8, "log_every_steps": 1}
    settings |= {"max_consecutive_refusals": 1, "max_refused_fraction": 0.9}
    nb.TrainingCoordinator(
        nb.Task(task.model, broken.loss, task.train_data, task.val_data),
        run_dir=run_dir,
        callbacks=[broken],
        tracker="wandb",
        alerts=True,
        panel="off",
        **settings,
    ).train()
    (found,) = read_wandb(run_dir)
    events = assert_complete(run_dir, [found])
    assert of_kind(events, "rollback")
    assert [row["events/rollback"] for row in found.rows if "events/rollback" in row]
    titles = [alert.title for alert in found.alerts]
    assert titles[-2:] == ["run: rolled back", "run: finished"]


def test_run_that_goes_back_to_an_older_checkpoint_has_every_row(
    tmp_path: Path, read_wandb: Reader
) -> None:
    run_dir = tmp_path / "run"
    train(str(run_dir), EndAt("interrupt", 7), save_every_steps=3)
    newest = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(newest)
    train(str(run_dir))
    files = read_wandb(run_dir)
    assert_complete(run_dir, files)
    first, second = files
    assert first.steps == list(range(1, 8))
    assert second.steps[0] < 8  # done again, and kept again
    assert second.steps[-1] == 15


def test_two_runs_in_one_kernel_and_one_of_the_users_own(
    tmp_path: Path, read_wandb: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    own = wandb.init(project="mine", dir=tmp_path, settings=wandb.Settings(silent=True))
    for name in ("a", "b"):
        train(str(tmp_path / name))
        (found,) = read_wandb(tmp_path / name)
        assert found.steps == list(range(1, 16))
        assert_complete(tmp_path / name, [found])
    ids = [RunDirectory(tmp_path / n).read_json("run.json")["wandb_id"] for n in "ab"]
    assert ids[0] != ids[1]
    own.log({"mine": 1})  # neither finished nor replaced
    own.finish()


def test_rerun_cell_continues_the_same_wandb_run(
    tmp_path: Path, read_wandb: Reader
) -> None:
    run_dir = tmp_path / "run"
    for _ in range(2):
        assert train(str(run_dir)).stop_reason == "completed"
    first, second = read_wandb(run_dir)
    assert first.run.run_id == second.run.run_id
    assert second.steps == []
    assert_complete(run_dir, [first, second])


def test_run_resumed_from_a_copied_checkpoint_keeps_its_wandb_run(
    tmp_path: Path, read_wandb: Reader
) -> None:
    train(str(tmp_path / "old"), EndAt("interrupt", 7))
    shutil.copytree(tmp_path / "old" / "checkpoints", tmp_path / "new" / "checkpoints")
    assert train(str(tmp_path / "new")).stop_reason == "completed"
    (old,) = read_wandb(tmp_path / "old")
    (new,) = read_wandb(tmp_path / "new")
    assert old.run.run_id == new.run.run_id
    assert new.steps == list(range(8, 16))
    last = max(row["_step"] for row in old.rows)
    assert min(row["_step"] for row in new.rows) > last  # W&B drops what goes back


class Fail(nb.Callback):
    def on_step_end(self, state: Any) -> None:
        if state.step == 7:
            raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("callback", "error", "exit_code"),
    [(Fail(), RuntimeError, 1), (EndAt("abort", 7), KeyboardInterrupt, 255)],
)
def test_exit_code_tells_an_error_from_an_abort(
    callback: Any,
    error: type[BaseException],
    exit_code: int,
    tmp_path: Path,
    read_wandb: Reader,
) -> None:
    with pytest.raises(error):
        train(str(tmp_path / "run"), callback)
    (found,) = read_wandb(tmp_path / "run")
    assert found.exit_code == exit_code
    assert len(found.steps) in (6, 7)
    assert_complete(tmp_path / "run", [found])


def test_unreachable_server_with_a_key_goes_offline_at_once(
    tmp_path: Path,
    read_wandb: Reader,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    mirror = tmp_path / "mirror"
    started = time.monotonic()
    train(str(run_dir), mirror=str(mirror), upload="report")
    assert time.monotonic() - started < 40
    text = capsys.readouterr().out
    assert "going online failed (no answer from 127.0.0.1:9" in text
    (found,) = read_wandb(run_dir)
    assert_complete(run_dir, [found])
    assert_nowhere(KEY, tmp_path)


def test_secrets_of_the_command_line_and_of_git_stay_out_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path)]
    address = f"https://me:{KEY}@example.org/x.git"
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", address], check=True)
    (tmp_path / ".git").rename(tmp_path / "git")  # holds the address itself
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "git"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key", KEY, f"--token={KEY}"])
    data_dir = f"s3://me:{KEY}@example.org/data"
    train(str(tmp_path / "run"), data_dir=data_dir)
    assert sys.argv[-1] == f"--token={KEY}"
    assert_nowhere(KEY, tmp_path / "run" / "wandb")


def test_mode_of_the_setting_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_wandb: Reader
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    train(str(tmp_path / "off"), wandb_mode="disabled")
    assert not (tmp_path / "off" / "wandb").exists()
    train(str(tmp_path / "offline"), wandb_mode="offline")
    assert len(read_wandb(tmp_path / "offline")) == 1
    assert_nowhere(KEY, tmp_path)


def test_uploads_are_artifacts_and_what_is_too_large_is_told(
    tmp_path: Path, read_wandb: Reader
) -> None:
    run_dir = tmp_path / "run"
    train(str(run_dir), upload=["figures", "model"], max_upload_mb=0.2)
    (found,) = read_wandb(run_dir)
    kinds = {artifact.type: artifact for artifact in found.artifacts}
    assert set(kinds) == {"figures", "model"}
    names = {item.path for item in kinds["model"].manifest.contents}
    assert names == {"model.safetensors", "config.yaml"}
    assert set(kinds["model"].aliases) == {"latest", "best"}
    train(str(run_dir), upload="report", max_upload_mb=0.001)
    told = [e["text"] for e in read_events(run_dir / "events.jsonl") if "text" in e]
    (text,) = [text for text in told if "max_upload_mb" in text]
    assert "W&B does not get report.html: it has" in text
    assert len(read_wandb(run_dir)[-1].artifacts) == 0


def test_nothing_leaks_from_a_tracked_run(tmp_path: Path) -> None:
    train(str(tmp_path / "first"), tracker="wandb,tensorboard")
    wandb.teardown()
    before = signals(), threads(), files()
    train(str(tmp_path / "second"), tracker="wandb,tensorboard")
    wandb.teardown()
    gc.collect()
    deadline = time.monotonic() + 5
    while files() != before[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert signals() == before[0]
    assert threads() <= before[1]
    assert files() == before[2]


def signals() -> list[Any]:
    return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def files() -> int:
    return len(os.listdir("/proc/self/fd"))
