"""W&B offline for real, read back from its file; and every way it can fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbutils.config import RunConfig
from nbutils.monitor.events import EventLog, read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking import wandb as adapter
from nbutils.tracking.factory import make_tracker

pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def _no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without keys, and without what the test run itself sets."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "night-owl").create()


@pytest.fixture
def log(directory: RunDirectory) -> Iterator[EventLog]:
    with EventLog(directory.events_path) as opened:
        yield opened


class FakeWandb:
    """Stands in for the package where a real failure would need a network."""

    Settings = dict

    def __init__(self, failing_modes: tuple[str, ...], error: Exception) -> None:
        self.failing_modes, self.error = failing_modes, error
        self.calls: list[dict[str, Any]] = []

    def init(self, **kwargs: Any) -> FakeWandb:
        self.calls.append(kwargs)
        if kwargs["mode"] in self.failing_modes:
            raise self.error
        self.url, self.summary = "https://wandb.example/run", {}
        return self

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        """Accepted."""

    def log(self, values: dict[str, Any]) -> None:
        raise self.error

    def finish(self, exit_code: int) -> None:
        raise self.error


def use(fake: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    monkeypatch.setattr(adapter, "_import_wandb", lambda: fake)
    return fake


def test_wandb_offline_mirrors_every_event_and_is_read_back(
    directory: RunDirectory,
    log: EventLog,
    capsys: pytest.CaptureFixture[str],
    read_wandb: Callable[[Path], tuple[list[dict[str, Any]], Any, dict[str, Any]]],
) -> None:
    import wandb

    config = RunConfig(tracker="wandb", project="owls", run_name="night", epochs=3)
    tracker = make_tracker(config, directory, "run/1")
    log.subscribe(tracker.write)
    for step in range(1, 201):
        loss = math.nan if step == 7 else 1 / step
        log.write("step", step=step, epoch=0, loss=loss, lr=0.1, terms={"kl": 0.5})
    log.write("resume", step=100, epoch=0, checkpoint="c")
    log.write("step", step=101, epoch=0, loss=0.25, lr=0.1)
    log.write("evaluate", step=101, split="val", metrics={"val_accuracy": 0.75})
    log.write("checkpoint", step=101, path="c/101", best=True)
    log.write("run_end", status="finished", reason="completed", step=101)
    tracker.finish(0)
    tracker.finish(0)
    wandb.teardown()

    rows, run, summary = read_wandb(directory.path)
    steps = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in steps] == [*range(1, 201), 101]
    assert steps[-1]["train/loss"] == 0.25
    assert steps[0]["train/terms/kl"] == 0.5
    assert [row["val/accuracy"] for row in rows if "val/accuracy" in row] == [0.75]
    assert (run.project, run.display_name, run.run_id) == ("owls", "night", "run-1")
    assert summary["best_step"] == 101
    assert summary["stop_reason"] == "completed"
    assert log.num_failures == {}
    known = directory.read_json("run.json")
    assert known == {"wandb_id": "run-1", "wandb_mode": "offline", "wandb_url": None}
    out = capsys.readouterr().out
    assert out.count("W&B is offline: no key was found") == 1
    assert "wandb sync" in out


def test_wandb_resume_keeps_the_id_of_run_json(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = use(FakeWandb((), ValueError()), monkeypatch)
    directory.write_json("run.json", {"wandb_id": "kept", "status": "stopped"})
    make_tracker(RunConfig(tracker="wandb"), directory, "other")
    assert fake.calls[0]["id"] == "kept"
    assert fake.calls[0]["resume"] == "allow"
    assert (directory.read_json("run.json") or {})["status"] == "stopped"


def test_wandb_that_cannot_go_online_goes_offline_and_says_why(
    directory: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    fake = use(FakeWandb(("online",), TimeoutError("no answer")), monkeypatch)
    make_tracker(RunConfig(tracker="wandb"), directory, "r")
    assert [call["mode"] for call in fake.calls] == ["online", "offline"]
    text = capsys.readouterr().out
    assert "going online failed (TimeoutError: no answer)" in text
    assert "kkk" not in text


def test_wandb_online_shows_its_address(
    directory: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    use(FakeWandb((), ValueError()), monkeypatch)
    tracker = make_tracker(RunConfig(tracker="wandb"), directory, "r")
    assert tracker.url == "https://wandb.example/run"
    assert "W&B: https://wandb.example/run" in capsys.readouterr().out


def test_wandb_that_cannot_start_at_all_lets_the_run_go_on(
    directory: RunDirectory,
    log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(FakeWandb(("online", "offline"), OSError("disk")), monkeypatch)
    tracker = make_tracker(RunConfig(tracker="wandb"), directory, "r")
    log.subscribe(tracker.write)
    log.write("step", step=1, loss=0.5)
    tracker.finish(0)
    assert "The run goes on without it" in capsys.readouterr().out
    assert log.num_failures == {}


def test_wandb_that_fails_later_is_counted_and_told_once(
    directory: RunDirectory,
    log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(FakeWandb((), ConnectionError("gone")), monkeypatch)
    tracker = make_tracker(RunConfig(tracker="wandb"), directory, "r")
    log.subscribe(tracker.write, "W&B")
    for step in range(3):
        log.write("step", step=step, loss=0.5)
    tracker.finish(0)
    messages = [e for e in read_events(log.path) if e["kind"] == "message"]
    assert len(messages) == 1
    assert log.num_failures["W&B"] == 3
    assert "W&B could not finish its run" in capsys.readouterr().out


def test_choose_mode_honours_wandb_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_MODE", "Disabled")
    assert adapter.choose_mode()[0] == "disabled"


def test_choose_mode_with_a_netrc_entry_is_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("machine api.wandb.ai login user password secret\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    mode, reason = adapter.choose_mode()
    assert mode == "online"
    assert "secret" not in reason


def test_choose_mode_with_a_broken_netrc_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("nonsense here\n")
    monkeypatch.setenv("NETRC", str(path))
    mode, reason = adapter.choose_mode()
    assert mode == "offline"
    assert "cannot be read: NetrcParseError" in reason


def test_choose_mode_with_another_host_in_netrc_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / ".netrc").write_text("machine x.y login u password p\n")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    assert adapter.choose_mode()[0] == "offline"
