"""W&B online, against a server of our own: what arrives, once, and what comes back."""

from __future__ import annotations

import importlib
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tracking.child import EndAt, train
from tracking.helpers_tracking import KEY, assert_nowhere, in_new_process, of_kind
from tracking.wandb_server import ServedRun, WandbServer

import nbutils as nb
from nbutils.cli import main
from nbutils.errors import ConfigError, EnvironmentProblem
from nbutils.monitor.events import EventLog, read_events
from nbutils.monitor.lock import run_lock
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking import wandb_api
from nbutils.tracking.sync import send_summary, sync_run
from nbutils.tracking.tracker import numbers

pytest.importorskip("wandb")


def only(server: WandbServer) -> ServedRun:
    (run,) = server.runs.values()
    return run


def assert_served(run: ServedRun, run_dir: Path) -> None:
    """Each line with numbers arrived once, as it is in the log."""
    lines = list(enumerate(read_events(run_dir / "events.jsonl")))
    expected = [line for line, event in lines if numbers(event)]
    pages = [row["_step"] for row in run.rows if "examples" in row]
    assert [step for step in run.steps if step not in pages] == expected
    by_step = {row["_step"]: row for row in run.rows}
    for line, event in lines:
        for name, value in numbers(event).items():
            assert by_step[line][name] == pytest.approx(value, nan_ok=True)


def test_resumed_run_arrives_once_with_its_summary_and_alerts(
    wandb_server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train(str(run_dir), EndAt("interrupt", 7), alerts=True)
    train(str(run_dir), alerts=True)
    run = only(wandb_server)
    assert_served(run, run_dir)
    assert run.exit_codes == [0, 0]
    assert [row["step"] for row in run.rows if "train/loss" in row] == [*range(1, 16)]
    assert [a["title"] for a in run.alerts] == ["run: stopped", "run: finished"]
    assert run.summary["stop_reason"] == "completed"
    assert run.summary["best_metric"] == "val_loss"
    assert run.config["total_params"]["value"] == 178
    known = RunDirectory(run_dir).read_json("run.json") or {}
    assert (
        known["wandb_url"] == f"{wandb_server.url}/me/nbutils/runs/{known['wandb_id']}"
    )
    told = capsys.readouterr()
    assert told.out.count(f"W&B: {known['wandb_url']}") == 2
    assert told.err == ""
    assert_nowhere(KEY, tmp_path)


@pytest.mark.slow
def test_killed_run_arrives_whole_once_it_is_resumed(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    code, _ = in_new_process(run_dir, "kill", "12", "save_in_background=false")
    assert code == -signal.SIGKILL
    arrived = len(only(wandb_server).rows)
    train(str(run_dir))
    assert_served(only(wandb_server), run_dir)
    assert len(only(wandb_server).rows) > arrived


def test_sync_sends_a_run_that_was_tracked_nowhere_and_only_once(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    train(str(run_dir), EndAt("interrupt", 7), tracker="none")
    ticks: list[int] = []
    (done,) = sync_run(run_dir, "wandb", tick=lambda: ticks.append(1))
    assert_served(only(wandb_server), run_dir)
    assert done.num_new == done.num_events == len(ticks)
    assert done.where in str(done)
    for _ in range(2):
        (done,) = sync_run(run_dir, ["wandb"])
        assert done.num_new < done.num_events
        assert_served(only(wandb_server), run_dir)
    train(str(run_dir), tracker="none")
    sync_run(run_dir, "wandb")
    assert_served(only(wandb_server), run_dir)
    assert only(wandb_server).summary["status"] == "finished"


def test_sync_of_a_run_that_was_offline_goes_on_with_its_id(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    train(str(run_dir), wandb_mode="offline")
    wandb_server.runs.clear()
    sync_run(run_dir)
    known = RunDirectory(run_dir).read_json("run.json") or {}
    assert list(wandb_server.runs) == [known["wandb_id"]]
    assert known["wandb_mode"] == "online"
    assert_served(only(wandb_server), run_dir)


@pytest.mark.slow
def test_server_that_dies_under_the_run_is_told_and_synced_later(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_api, "_FINISH_TIMEOUT_S", 2.0)
    run_dir = tmp_path / "run"
    wandb_server.max_rows = 0
    started = time.monotonic()
    assert train(str(run_dir)).stop_reason == "completed"
    assert time.monotonic() - started < 30
    told = [
        e["text"] for e in of_kind(read_events(run_dir / "events.jsonl"), "message")
    ]
    (text,) = [text for text in told if "W&B did not take" in text]
    assert f"nbutils sync {run_dir} --to wandb" in text
    wandb_server.max_rows = None
    in_new_process(run_dir, "epochs=3", "wandb_mode=disabled")
    wandb = importlib.import_module("wandb")
    wandb.teardown()
    sync_run(run_dir, "wandb")
    assert_served(only(wandb_server), run_dir)


def test_files_arrive_as_they_are_but_without_passwords(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    data_dir = "s3://me:pass-word@example.org/data"
    train(str(run_dir), upload="figures,report,model", data_dir=data_dir)
    assert not [text for text in messages(run_dir) if "W&B" in text]
    names = ("curves.png", "report.html", "model.safetensors", "config.yaml")
    got = {name: wandb_server.uploads[f"artifact/{name}"] for name in names}
    best = run_dir / "checkpoints" / "best" / "model.safetensors"
    assert got["model.safetensors"] == best.read_bytes()
    assert got["curves.png"] == (run_dir / "figures" / "curves.png").read_bytes()
    assert b"pass-word" in (run_dir / "config.yaml").read_bytes()
    assert not [name for name, data in got.items() if b"pass-word" in data]
    assert b"pass-word" not in b"".join(wandb_server.uploads.values())
    assert b"s3://me:[redacted]@example.org/data" in got["config.yaml"]


def test_files_that_the_service_refuses_are_told_and_nothing_else_is_lost(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    wandb_server.takes_artifacts = False
    train(str(run_dir), upload="report")
    told = [
        e["text"] for e in of_kind(read_events(run_dir / "events.jsonl"), "message")
    ]
    assert len([text for text in told if "W&B did not take the files" in text]) == 1
    assert only(wandb_server).exit_codes == [0]
    assert only(wandb_server).summary["status"] == "finished"
    assert_served(only(wandb_server), run_dir)


def messages(run_dir: Path) -> list[str]:
    events = of_kind(read_events(run_dir / "events.jsonl"), "message")
    return [event["text"] for event in events]


class Slowly(nb.Callback):
    """Somebody presses Stop on the run's page at step 3."""

    def __init__(self, server: WandbServer) -> None:
        self.server = server

    def on_step_end(self, state: Any) -> None:
        time.sleep(0.05)
        if state.step == 3:
            only(self.server).is_stopped = True


@pytest.mark.slow
def test_stop_on_the_page_ends_the_run_with_its_reason(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = importlib.import_module("wandb.sdk.lib.run_stopping")
    monkeypatch.setitem(
        stopping.RunStopChecker.__init__.__kwdefaults__, "poll_interval", 0.3
    )
    result = train(str(tmp_path / "run"), Slowly(wandb_server), epochs=200)
    assert result.stop_reason == "requested: stopped from the W&B page"
    assert result.steps < 1000
    assert only(wandb_server).exit_codes == [0]
    assert_served(only(wandb_server), tmp_path / "run")


def test_test_metrics_reach_the_summary_of_an_ended_run(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    train(str(run_dir))
    RunDirectory(run_dir).update_json("run.json", test_metrics={"accuracy": 0.75})
    config = nb.RunConfig.load(run_dir / "config.yaml")
    send_summary(config, run_dir)
    assert only(wandb_server).summary["test/accuracy"] == 0.75
    assert_served(only(wandb_server), run_dir)
    send_summary(config.replace(tracker="none"), run_dir)
    assert only(wandb_server).exit_codes == [0, 0]


def test_sync_without_a_key_says_what_to_do(no_keys: Path, tmp_path: Path) -> None:
    train(str(tmp_path / "run"), tracker="none", epochs=1)
    with pytest.raises(EnvironmentProblem, match="cannot be reached: no key was found"):
        sync_run(tmp_path / "run", "wandb")


def test_sync_without_a_network_says_so(
    no_keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    train(str(tmp_path / "run"), tracker="none", epochs=1)
    with pytest.raises(EnvironmentProblem, match=r"no answer from 127\.0\.0\.1:9"):
        sync_run(tmp_path / "run", "wandb", key=KEY)
    assert_nowhere(KEY, tmp_path)


def test_sync_of_no_run_or_of_one_under_way_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="holds no events of a run; expected"):
        sync_run(tmp_path)
    train(str(tmp_path / "run"), tracker="none", epochs=1)
    with pytest.raises(ConfigError, match="name one: --to wandb, or --to tensorboard"):
        sync_run(tmp_path / "run")
    with (
        run_lock(tmp_path / "run"),
        pytest.raises(EnvironmentProblem, match="under way"),
    ):
        sync_run(tmp_path / "run", "tensorboard")


def test_sync_that_breaks_off_says_to_go_on(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    train(str(run_dir), tracker="none")
    left = 5

    def tick() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise ConnectionError("gone")

    with pytest.raises(EnvironmentProblem, match="only a part of the events"):
        sync_run(run_dir, "wandb", tick=tick)
    sync_run(run_dir, "wandb")
    assert_served(only(wandb_server), run_dir)


def test_sync_from_a_shell_shows_what_it_did(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from click.testing import CliRunner

    train(str(tmp_path / "run"), tracker="none", epochs=1)
    done = CliRunner().invoke(
        main, ["sync", str(tmp_path / "run"), "--to", "tensorboard"]
    )
    assert done.exit_code == 0, done.output
    assert "events were new" in done.output
    missing = CliRunner().invoke(main, ["sync", str(tmp_path / "nowhere")])
    assert missing.exit_code == 1
    assert "holds no events of a run" in missing.output


def test_log_that_lies_elsewhere_is_synced_without_its_config(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    """Only events.jsonl is left of a run."""
    folder = RunDirectory(tmp_path / "rest").create()
    with EventLog(folder.events_path) as log:
        log.write("step", step=1, loss=0.5)
    sync_run(folder.path, "wandb")
    assert_served(only(wandb_server), folder.path)
    assert list(wandb_server.runs) == ["rest"]
