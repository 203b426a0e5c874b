"""The summary of a run tells what it was, what it reached and what it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nbutils as nb
from nbutils.monitor.digest import FILE, RunDigest, write_digest
from nbutils.monitor.events import EventLog
from nbutils.monitor.rundir import RunDirectory
from nbutils.testing import make_task


def eventful(path: Path) -> Path:
    """A run with every trouble."""
    with EventLog(path / "events.jsonl") as log:
        log.write(
            "run_start",
            planned_steps=20,
            num_parameters=99,
            device="cuda",
            precision="bf16",
        )
        for step, rate in ((1, 10.0), (2, 1000.0), (3, 30.0)):
            log.write("step", step=step, epoch=0, loss=1.0, samples_per_s=rate)
        log.write("monitor", step=3, values={"throughput/tokens_per_s": 640.0})
        log.write("refused", step=3)
        log.write("rollback", step=3, to_step=2)
        log.write("oom", step=3, micro_batch=2)
        log.write("message", level="warning", text="w")
        log.write("message", level="info", text="i")
        log.write("watchdog", id="W1", severity="warning", text="frozen")
        log.write("epoch", epoch=1, step=4, train_loss=1.0, val_loss=0.5, seconds=2.0)
        log.write("run_end", status="stopped", reason="time", step=4, seconds=65.0)
    return path


def test_digest_counts_and_measures(tmp_path: Path) -> None:
    found = RunDigest.read(eventful(tmp_path)).to_dict()
    assert (found["status"], found["stop_reason"]) == ("stopped", "time")
    assert (found["steps"], found["planned_steps"], found["epochs"]) == (4, 20, 1)
    assert found["rates"] == {
        "samples_per_s": 30.0,
        "tokens_per_s": 640.0,
        "steps_per_s": 2.0,
    }
    assert found["trouble"] == {
        "refused": 1,
        "rollback": 1,
        "oom": 1,
        "watchdog": 1,
        "warning": 1,
    }
    assert found["alarms"] == ["W1: frozen"]
    assert found["best"]["value"] == 0.5
    assert found["final"] == {"train_loss": 1.0, "val_loss": 0.5}
    assert found["duration_s"] == 65.0


def test_text_tells_the_same(tmp_path: Path) -> None:
    text = str(RunDigest.read(eventful(tmp_path)))
    for part in (
        ": stopped, time",
        "99 parameters",
        "4 steps of 20 planned, 1 epoch, 1:05, 30 samples/s, 640 tokens/s",
        "on cuda, bf16",
        "best     val_loss 0.5 at epoch 1, step 4",
        "1 refused, 1 rollback, 1 out of memory, 1 by watchdogs",
        "! W1: frozen",
        "no checkpoint",
    ):
        assert part in text


def test_training_leaves_a_summary(tmp_path: Path) -> None:
    result = nb.TrainingCoordinator(
        make_task(), epochs=2, run_dir=tmp_path / "run"
    ).train()
    found = json.loads((tmp_path / "run" / FILE).read_text())
    assert found["status"] == "finished"
    assert found["steps"] == found["planned_steps"] == 4
    assert found["model"]["parameters"] == found["model"]["trainable"] == 178
    assert found["checkpoints"][-1] == "best"
    assert found["checkpoint_bytes"] > 0
    for kind in ("log", "report", "metrics", "best weights"):
        assert (tmp_path / "run" / found["files"][kind]).is_file()
    assert result.details == found


def test_summary_of_a_result_tells_model_and_checkpoints(tmp_path: Path) -> None:
    task = make_task()
    next(task.model.parameters()).requires_grad_(False)
    result = nb.TrainingCoordinator(task, epochs=1, run_dir=tmp_path / "run").train()
    text = result.summary()
    assert "model    Sequential (custom), 178 parameters, 82 trainable" in text
    assert "step-00000002, best (" in text
    assert text.splitlines()[-1] == f"  files    {tmp_path / 'run'}"


def test_failed_run_leaves_a_summary_without_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "tok-12345678")

    class Breaks(nb.Callback):
        def on_epoch_end(self, state: Any) -> None:
            raise RuntimeError("no access with tok-12345678")

    coordinator = nb.TrainingCoordinator(
        make_task(), epochs=2, run_dir=tmp_path / "run", callbacks=[Breaks()]
    )
    with pytest.raises(RuntimeError, match="no access"):
        coordinator.train()
    text = (tmp_path / "run" / FILE).read_text()
    assert json.loads(text)["status"] == "failed"
    assert "tok-12345678" not in text


def test_summary_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "run" / FILE).mkdir(parents=True)
    result = nb.TrainingCoordinator(
        make_task(), epochs=1, run_dir=tmp_path / "run"
    ).train()
    assert result.stop_reason == "completed"
    log = (tmp_path / "run" / "run.log").read_text()
    assert f"{FILE} could not be written" in log


def test_killed_run_says_so(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_start", planned_steps=20)
    RunDirectory(tmp_path).write_json("run.json", {"status": "running"})
    found = RunDigest.read(tmp_path)
    assert found.status == "killed"
    assert "not known" in str(found)


def test_folder_without_events_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(nb.EnvironmentProblem, match="holds no events of a run"):
        RunDigest.read(tmp_path)
    assert write_digest(tmp_path) is None
    assert not (tmp_path / FILE).exists()
