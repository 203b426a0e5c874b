"""A panel of a run that another process trains follows it; its button stops it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from helpers_ui import live_models

from nbutils.monitor.events import EventLog
from nbutils.monitor.lock import run_lock
from nbutils.ui import attached
from nbutils.ui.attached import AttachedPanel, attach_live


class Slot:
    """Keeps what is drawn, and what stands below."""

    def __init__(self, below: tuple[Any, ...]) -> None:
        self.below, self.heads, self.html = below, [], ""

    def show(self, parts: Any) -> None:
        self.heads.append(parts.head)

    def end(self, html: str, text: str) -> None:
        self.html = html


class Run:
    """Counts how often it was asked to stop."""

    num_stops = 0

    def stop(self) -> None:
        self.num_stops += 1


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[Slot]:
    made: list[Slot] = []

    def make(below: tuple[Any, ...]) -> Slot:
        made.append(Slot(below))
        return made[-1]

    monkeypatch.setattr(attached, "make_slot", make)
    return made


def test_attached_panel_follows_in_a_thread_until_the_end(
    tmp_path: Path, slots: list[Slot]
) -> None:
    before = set(live_models())
    log, run = EventLog(tmp_path / "events.jsonl"), Run()
    with run_lock(tmp_path):
        panel = AttachedPanel(tmp_path, run)
        (slot,), (button,) = slots, slots[0].below
        assert "• starting" in slot.heads[0]
        log.write("run_start", step=0, planned_steps=9)
        log.write("step", step=3, loss=1.0)
        deadline = time.monotonic() + 20
        while "step 3 of 9" not in slot.heads[-1]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert panel.is_open
        with panel.occupied():
            assert button.layout.display == "none"
        assert button.layout.display is None
        button.click()
        assert (run.num_stops, button.disabled) == (1, True)
        log.write("run_end", status="stopped", reason="stop file", step=3)
        log.close()
    panel.join()
    assert not panel.is_open
    assert "• stopped" in slot.html
    left = [model for key, model in live_models().items() if key not in before]
    assert "Button" not in {type(model).__name__ for model in left}


def test_attached_panel_of_a_killed_run_ends_too(
    tmp_path: Path, slots: list[Slot]
) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_start", step=0)
        log.write("step", step=3, loss=1.0)
    panel = AttachedPanel(tmp_path, Run())
    panel.join()
    assert "! killed" in slots[0].html


def test_attached_panel_without_widgets_has_no_button(
    tmp_path: Path, slots: list[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached.importlib.util, "find_spec", lambda name: None)
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_end", status="finished", reason="target", step=3)
    panel = AttachedPanel(tmp_path, Run())
    with panel.occupied():
        panel.join()
    assert slots[0].below == ()
    assert "✓ finished" in slots[0].html


def test_attach_live_where_nobody_looks_is_none(tmp_path: Path) -> None:
    assert attach_live(tmp_path, Run()) is None
