"""What a snapshot keeps of a service, and how a service's Stop reaches the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbutils.monitor.events import EventLog, read_events
from nbutils.monitor.rundir import RunDirectory
from nbutils.testing import make_task
from nbutils.tracking import views
from nbutils.tracking.link import TrackerLink
from nbutils.tracking.replay import num_lines, without_undone
from nbutils.tracking.views import open_views
from nbutils.train.state import RunState


def test_link_passes_a_stop_on_while_the_run_is_under_way() -> None:
    link, state = TrackerLink(), RunState()
    link.request_stop("too early")
    link.on_fit_start(state)
    link.request_stop("from the page")
    link.on_fit_end(state)
    link.request_stop("too late")
    assert state.stop_reason == "requested: from the page"


def test_link_keeps_the_ids_of_a_snapshot_but_not_over_its_own() -> None:
    link = TrackerLink()
    link.load_state_dict({"wandb_id": "a", "wandb_step": 5})
    link.ids["wandb_step"] = 9
    link.load_state_dict({"wandb_id": "b", "wandb_step": 5, "more": 1})
    assert link.state_dict() == {"wandb_id": "a", "wandb_step": 9, "more": 1}


def test_num_lines_counts_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"a\nb\n" * 1000 + b"torn")
    assert num_lines(path) == num_lines(path, block=7) == 2000


def test_without_undone_leaves_out_what_was_done_again() -> None:
    went = [{"kind": "step", "step": n} for n in range(1, 6)]
    again = [{"kind": "resume", "step": 3}, {"kind": "step", "step": 4}]
    message = {"kind": "message", "text": "no step of its own"}
    kept = without_undone([*went, message, *again])
    assert kept == [*went[:3], message, *again]


class Broken:
    """A panel that cannot be made."""

    def __init__(self, *_args: Any) -> None:
        raise RuntimeError("no display")


def test_panel_that_cannot_be_made_is_told_and_the_views_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbutils.config import RunConfig

    monkeypatch.setattr(views, "make_panel", Broken)
    folder = RunDirectory(tmp_path / "run").create()
    with open_views(RunConfig(), folder, "r") as opened:
        opened.events.write("step", step=1, loss=0.5)
    events = read_events(folder.events_path)
    (text,) = [event["text"] for event in events if event["kind"] == "message"]
    assert "panel" in text
    assert "no display" in text


def test_views_describe_the_model_and_survive_one_that_cannot_be(
    tmp_path: Path,
) -> None:
    from nbutils.config import RunConfig

    folder = RunDirectory(tmp_path / "run").create()
    with open_views(RunConfig(panel="off"), folder, "r") as opened:
        opened.describe(make_task().model, lambda model: 1 / 0)
        opened.describe(make_task().model, lambda model: "custom")
    assert (folder.read_json("run.json") or {})["model"]["total_params"] == 178
    assert "ZeroDivisionError" in folder.events_path.read_text()


def test_event_log_of_two_failing_trackers_counts_each(tmp_path: Path) -> None:
    def fail(event: Any) -> None:
        raise OSError(event["kind"])

    with EventLog(tmp_path / "events.jsonl") as log:
        log.subscribe(fail, "a")
        log.subscribe(lambda event: fail(event), "b")
        log.write("step", step=1)
        assert set(log.num_failures) == {"a", "b"}
