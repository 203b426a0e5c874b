"""The screen of a run fits its terminal and needs no colour, nor Unicode."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

from nbutils.monitor.about import About
from nbutils.monitor.events import EventLog
from nbutils.monitor.facts import best_of, format_bytes, headline, machine_facts
from nbutils.monitor.runview import RunView
from nbutils.monitor.sentences import mark, sentence
from nbutils.monitor.terminal import ScreenThenLines, epoch_table, screen, sparkline

ABOUT = About(path=Path("runs/owl"), verdict="preflight passed (standard)", url="u://")


def events(num_epochs: int = 3, *, ends: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"kind": "run_start", "planned_steps": 100, "epochs": 10, "device": "cpu"}
    ]
    for epoch in range(1, num_epochs + 1):
        step = 10 * epoch
        found.append({"kind": "step", "step": step, "loss": 1 / epoch, "lr": 0.1})
        values = {"device/allocated_bytes": 3.2e9, "device/utilization": 0.5}
        found.append({"kind": "monitor", "step": step, "values": values})
        row = {"epoch": epoch, "step": step, "val_loss": 2 / epoch, "val_f1": 0.5}
        found.append({"kind": "epoch", **row})
        found.append({"kind": "checkpoint", "step": step, "best": epoch == 2})
    if ends:
        end = {"status": "finished", "reason": "target", "seconds": 61.0}
        found.append({"kind": "run_end", "step": step, **end})
    return [{"time_s": 60.0 * i, **event} for i, event in enumerate(found)]


def lines(view: RunView, *arguments: Any, **more: Any) -> list[str]:
    return screen(view, ABOUT, *arguments, **more).splitlines()


def test_screen_tells_the_run_in_a_glance() -> None:
    found = lines(RunView.from_events(events()))
    assert found[0] == "Run owl  • training"
    assert found[1] == "cpu · preflight passed (standard)"
    assert found[2] == "W&B u://"
    assert found[4].startswith("30 %  step 30 of 100  epoch 1 of 10")
    text = "\n".join(found)
    assert "device memory 3.2 GB   device busy 50 %" in text
    assert "loss      █▁" not in text  # three points: three signs
    assert "1 to 0.3333" in text
    assert "✓ saved at step 30" in text
    assert "Ended" not in text


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_screen_fits_the_terminal(width: int, is_ascii: bool) -> None:
    view = RunView.from_events(events(ends=True))
    found = lines(view, width=width, is_ascii=is_ascii)
    assert max(map(len, found)) <= width
    assert not is_ascii or "\n".join(found).isascii()
    assert any(line.startswith("Ended after 1:01: target") for line in found)


def test_screen_of_a_killed_run_says_so() -> None:
    first = lines(RunView.from_events(events()), "killed", width=200)[0]
    assert "! killed: its process ended without a word" in first


def test_screen_of_nothing_is_short() -> None:
    found = lines(RunView())
    assert found[0] == "Run owl  • starting"
    assert "nan" not in "\n".join(found)


def test_sparkline_of_odd_values() -> None:
    assert sparkline([]) == ""
    assert sparkline([math.nan, 2.0]) == "▁"
    assert len(sparkline([math.sin(x) for x in range(1000)], width=30)) == 30
    assert sparkline([0, 1], is_ascii=True) == "_@"


def test_epoch_table_leaves_out_step_and_rate() -> None:
    table = epoch_table([{"epoch": 1, "step": 9, "lr": 0.1, "val_loss": 0.5}])
    assert table.split() == ["epoch", "val_loss", "1", "0.5"]


def test_screen_then_lines_writes_ascii_where_it_must() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    panel = ScreenThenLines(Path("runs/owl"), stream=out)
    panel.take(events())
    panel.refresh()
    panel.take([{"time_s": 1.0, "kind": "stop", "step": 31, "reason": "time"}])
    panel.refresh("killed")
    out.flush()
    text = raw.getvalue().decode()
    assert text.count("Run owl") == 1
    assert "stopping at step 31: time\n! killed" in text


def test_facts_name_the_monitored_metric_first_and_the_best() -> None:
    about = About(path=Path("x"), monitor="f1", mode="max")
    view = RunView.from_events(events())
    assert best_of(view, about)["metric"] == "val_f1"
    view.apply({"kind": "evaluate", "step": 31, "metrics": {"val_loss": 0.1}})
    labels = [label for label, _ in headline(view, ABOUT)]
    assert labels[:3] == ["loss", "val_loss", "val_f1"]
    assert ("best, step 30", "0.6667") in headline(view, ABOUT)


def test_machine_facts_mark_what_is_wrong() -> None:
    view = RunView()
    values = {"loader/wait_fraction": 0.4, "host/swap_bytes": 2e9, "x/y": 1.0}
    view.apply({"kind": "monitor", "step": 1, "values": values})
    assert machine_facts(view) == [
        ("! swapped out", "2.0 GB"),
        ("! waits for data", "40 %"),
    ]


def test_format_bytes_of_large_numbers() -> None:
    assert [format_bytes(n) for n in (0, 999, 1e6, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 MB",
        "5.0 TB",
    ]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"kind": "checkpoint", "best": True, "step": 3}, "✓ best so far, saved at"),
        ({"kind": "published", "url": "u"}, "✓ published: u"),
        ({"kind": "run_end", "status": "failed"}, "! run ended: failed"),
        ({"kind": "alert", "title": "a", "text": "b"}, "• info: a: b"),
        ({"kind": "message", "level": "warning", "text": "b"}, "! warning: b"),
        ({"kind": "resume", "step": 3}, "• resumed at step 3"),
        ({"kind": "step", "step": 3}, "• "),
    ],
)
def test_sentence_and_mark(event: dict[str, Any], expected: str) -> None:
    assert f"{mark(event)} {sentence(event)}".startswith(expected)


def test_about_of_an_empty_folder_is_empty(tmp_path: Path) -> None:
    about = About.read(tmp_path / "none")
    assert (about.name, about.verdict, about.url) == ("none", "", "")


def test_about_reads_the_verdict_and_settings(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl").close()
    (tmp_path / "run.json").write_text('{"task": "T", "verdict": null}')
    (tmp_path / "config.yaml").write_text(
        "recipe: null\ntrain:\n  monitor: val_f1  # argument\n  mode: max\n"
    )
    about = About.read(tmp_path)
    assert about.verdict == "no preflight"
    assert (about.recipe, about.monitor, about.mode) == ("", "val_f1", "max")
    (tmp_path / "run.json").write_text(
        '{"verdict": {"passed": false, "depth": "static", "ids": {"S1": "fail"}}}'
    )
    assert About.read(tmp_path).verdict == "preflight failed (static, 1 checks)"
