"""The W&B tracker by itself: what it asks of the package, and every way it can fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbutils.config import RunConfig
from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import EventLog, read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.tracking import wandb_api
from nbutils.tracking.link import TrackerLink
from nbutils.tracking.tracker import Bins
from nbutils.tracking.wandb import WandbTracker

pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("no_keys")
KEY = "fade" * 10


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

    def __init__(
        self, failing_modes: tuple[str, ...] = (), error: Exception | None = None
    ) -> None:
        self.failing_modes, self.error = failing_modes, error or ValueError()
        self.calls: list[dict[str, Any]] = []
        self.rows: list[int] = []
        self.exit_codes: list[int] = []
        self.fails_later = False
        self.step = self.starting_step = 0
        self.summary: dict[str, Any] = {}
        self.url = "https://wandb.example/run"

    def setup(self) -> FakeWandb:
        return self

    def init(self, **kwargs: Any) -> FakeWandb:
        self.calls.append(kwargs)
        if kwargs["mode"] in self.failing_modes:
            raise self.error
        return self

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        """Accepted."""

    def log(self, values: dict[str, Any], step: int, commit: bool) -> None:
        if self.fails_later:
            raise self.error
        self.rows.append(step)

    def finish(self, exit_code: int) -> None:
        if self.fails_later:
            raise self.error
        self.exit_codes.append(exit_code)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    made = FakeWandb()
    monkeypatch.setattr(wandb_api, "import_wandb", lambda: made)
    monkeypatch.setattr(wandb_api, "unreachable", lambda url: "")
    return made


def started(
    directory: RunDirectory,
    log: EventLog,
    link: TrackerLink | None = None,
    **settings: Any,
) -> WandbTracker:
    tracker = WandbTracker(
        RunConfig(tracker="wandb", **settings), directory, "r/1", link
    )
    log.subscribe(tracker.write, "W&B")
    log.write("run_start", step=0, precision="fp32")
    return tracker


def test_wandb_offline_mirrors_every_event_and_is_read_back(
    directory: RunDirectory,
    log: EventLog,
    capsys: pytest.CaptureFixture[str],
    read_wandb: Callable[[Path], list[Any]],
) -> None:
    import wandb

    settings = {"project": "owls", "run_name": "night", "epochs": 3, "group": "birds"}
    more = {"tags": ["a", "b"], "notes": "first", "job_type": "test"}
    tracker = started(directory, log, **settings, **more)
    for step in range(1, 201):
        loss = math.nan if step == 7 else 1 / step
        log.write("step", step=step, epoch=0, loss=loss, lr=0.1, terms={"kl": 0.5})
    log.write("resume", step=100, epoch=0, checkpoint="c")
    log.write("step", step=101, epoch=0, loss=0.25, lr=0.1)
    log.write("monitor", step=101, values={"host/rss_bytes": 5})
    counts = list(range(1, 1002))
    edges = list(range(1002))
    log.write("histogram", step=101, name="gradients", edges=edges, counts=counts)
    log.write("examples", step=101, best=[{"index": 3, "loss": 0.1}], worst=["<b>"])
    log.write("evaluate", step=101, split="val", metrics={"val_accuracy": 0.75})
    log.write("run_end", status="finished", reason="completed", step=101)
    directory.update_json("run.json", stop_reason="completed", best={"step": 101})
    tracker.finish(0)
    tracker.finish(0)
    wandb.teardown()

    (found,) = read_wandb(directory.path)
    assert found.steps == [*range(1, 201), 101]
    steps = [row for row in found.rows if "train/loss" in row]
    assert (steps[-1]["train/loss"], steps[0]["train/terms/kl"]) == (0.25, 0.5)
    assert [row["_step"] for row in steps] == [*range(1, 201), 202]
    written = [e["time_s"] for e in read_events(log.path) if e["kind"] == "step"]
    assert [row["_timestamp"] for row in steps] == pytest.approx(written, abs=1e-5)
    assert [r["val/accuracy"] for r in found.rows if "val/accuracy" in r] == [0.75]
    assert [r["host/rss_bytes"] for r in found.rows if "host/rss_bytes" in r] == [5]
    assert [r["events/resume"] for r in found.rows if "events/resume" in r] == [1]
    names = {name for row in found.rows for name in row}
    assert "gradients._type" in names or "gradients" in names
    assert any(name.startswith("examples") for name in names)
    run = found.run
    assert (run.project, run.display_name, run.run_id) == ("owls", "night", "r-1")
    assert (run.run_group, run.notes, run.job_type) == ("birds", "first", "test")
    assert list(run.tags) == ["a", "b"]
    assert found.config["mixed_precision"] == "fp32"
    assert found.config["learning_rate"] == 1e-3
    assert (found.summary["best_step"], found.summary["stop_reason"]) == (
        101,
        "completed",
    )
    assert found.exit_code == 0
    assert log.num_failures == {}
    known = directory.read_json("run.json") or {}
    assert (known["wandb_id"], known["wandb_mode"]) == ("r-1", "offline")
    assert known["wandb_lines"] == len(read_events(log.path))
    out = capsys.readouterr().out
    assert out.count("W&B is offline: no key was found") == 1
    assert f"nbutils sync {directory.path}" in out
    (page,) = (directory.path / "wandb").glob("offline-*/files/media/html/*.html")
    assert "&lt;b&gt;" in page.read_text()


def test_wandb_without_a_run_start_leaves_nothing(
    directory: RunDirectory, log: EventLog, fake: FakeWandb
) -> None:
    tracker = WandbTracker(RunConfig(tracker="wandb"), directory, "r")
    log.subscribe(tracker.write)
    log.write("run_end", status="failed", reason="no data")
    tracker.finish(1)
    assert fake.calls == []
    assert directory.read_json("run.json") is None


def test_wandb_disabled_opens_nothing(
    directory: RunDirectory, log: EventLog, fake: FakeWandb
) -> None:
    started(directory, log, wandb_mode="disabled").finish(0)
    assert fake.calls == []


@pytest.mark.parametrize(
    ("of_folder", "of_checkpoint", "expected"),
    [("kept", "other", "kept"), (None, "kept", "kept"), (None, None, "r-1")],
)
def test_wandb_id_is_of_the_folder_else_of_the_checkpoint(
    of_folder: str | None,
    of_checkpoint: str | None,
    expected: str,
    directory: RunDirectory,
    log: EventLog,
    fake: FakeWandb,
) -> None:
    if of_folder:
        directory.write_json("run.json", {"wandb_id": of_folder, "status": "stopped"})
    link = TrackerLink()
    if of_checkpoint:
        link.load_state_dict({"wandb_id": of_checkpoint, "wandb_step": 40})
    started(directory, log, link)
    assert fake.calls[0]["id"] == expected
    assert link.state_dict()["wandb_id"] == expected
    log.write("step", step=1, loss=0.5)
    if of_folder is None and of_checkpoint:  # another folder, whose log begins anew
        assert fake.rows == [100_041]  # beyond what that run may have sent since
        assert link.state_dict()["wandb_step"] == 100_042


def test_wandb_online_resumes_where_the_service_stands(
    directory: RunDirectory,
    log: EventLog,
    fake: FakeWandb,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for step in range(10):
        log.write("step", step=step, loss=0.5)
    fake.starting_step = 6  # what a killed process had sent
    tracker = started(directory, log)
    log.write("step", step=10, loss=0.5)
    tracker.finish(0)
    assert fake.rows == [6, 7, 8, 9, 11]
    assert fake.calls[0]["resume"] == "allow"
    assert fake.calls[0]["settings"]["api_key"] == KEY
    assert fake.calls[0]["settings"]["save_code"] is False
    assert "W&B: https://wandb.example/run" in capsys.readouterr().out


def test_wandb_offline_sends_what_a_killed_process_may_have_lost(
    directory: RunDirectory, log: EventLog, fake: FakeWandb
) -> None:
    for step in range(10):
        log.write("step", step=step, loss=0.5)
    directory.write_json("run.json", {"wandb_lines": 4})  # of the last clean end
    started(directory, log)
    assert fake.rows == [4, 5, 6, 7, 8, 9]
    assert fake.calls[0]["resume"] is None


def test_wandb_that_cannot_go_online_goes_offline_and_says_why(
    directory: RunDirectory,
    log: EventLog,
    fake: FakeWandb,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    fake.failing_modes, fake.error = ("online",), TimeoutError(f"no answer to {KEY}")
    started(directory, log)
    assert [call["mode"] for call in fake.calls] == ["online", "offline"]
    text = capsys.readouterr().out
    assert "going online failed (TimeoutError: no answer to [redacted])" in text
    assert "set WANDB_API_KEY" not in text
    assert KEY not in text


def test_wandb_that_cannot_start_at_all_is_told_once_and_not_tried_again(
    directory: RunDirectory, log: EventLog, fake: FakeWandb
) -> None:
    fake.failing_modes, fake.error = ("online", "offline"), OSError("disk")
    tracker = started(directory, log)
    log.write("step", step=1, loss=0.5)
    log.write("run_start", step=1)
    tracker.finish(0)
    assert log.num_failures == {"W&B": 1}
    (told,) = [e for e in read_events(log.path) if e["kind"] == "message"]
    assert "W&B could not start (OSError: disk). The run goes on" in told["text"]


def test_wandb_that_fails_later_is_counted_and_told_once(
    directory: RunDirectory, log: EventLog, fake: FakeWandb
) -> None:
    tracker = started(directory, log)
    fake.fails_later, fake.error = True, ConnectionError("gone")
    for step in range(3):
        log.write("step", step=step, loss=0.5)
    with pytest.raises(EnvironmentProblem, match=r"did not take the end \(Connection"):
        tracker.finish(0)
    tracker.finish(0)
    messages = [e for e in read_events(log.path) if e["kind"] == "message"]
    assert len(messages) == 1
    assert log.num_failures["W&B"] == 3
    assert "wandb_lines" not in (directory.read_json("run.json") or {})


def test_wandb_broken_examples_leave_the_end_alone(
    directory: RunDirectory,
    log: EventLog,
    fake: FakeWandb,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.tracking.wandb.example_page", lambda event: 1 / 0)
    tracker = started(directory, log)
    with pytest.raises(EnvironmentProblem, match="did not take the examples"):
        tracker.finish(1)
    assert fake.exit_codes == [1]


def test_histogram_of_many_bins_is_merged() -> None:
    counts = tuple(float(n) for n in range(1001))
    found = wandb_api.histogram(Bins("h", tuple(map(float, range(1002))), counts))
    assert len(found.histogram) <= 512
    assert sum(found.histogram) == sum(counts)
    assert (found.bins[0], found.bins[-1]) == (0, 1001)


def test_example_page_of_nothing_is_nothing() -> None:
    assert wandb_api.example_page({}) is None
    assert wandb_api.example_page({"best": [], "worst": None}) is None
