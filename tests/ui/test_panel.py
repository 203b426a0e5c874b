"""The live panel: seldom, small, and whole at the end; and the way back to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from helpers_ui import live_models

from nbutils.config import RunConfig
from nbutils.errors import EnvironmentProblem
from nbutils.monitor import display
from nbutils.monitor.about import About
from nbutils.monitor.dashboard import Parts, dashboard_html, render
from nbutils.monitor.display import TextPanel
from nbutils.monitor.events import EventLog
from nbutils.monitor.lock import run_lock
from nbutils.monitor.runview import RunView
from nbutils.ui import notebook, show, slots
from nbutils.ui.panel import HeadlessPanel, LivePanel
from nbutils.ui.show import show_run
from nbutils.ui.slots import DisplaySlot, WidgetSlot

ABOUT = About(path=Path("runs/<x>"))


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Slot:
    """Keeps what is drawn."""

    def __init__(self) -> None:
        self.drawn: list[Parts] = []
        self.html = self.text = ""

    def show(self, parts: Parts) -> None:
        self.drawn.append(parts)

    def end(self, html: str, text: str) -> None:
        self.html, self.text = html, text


def run_events(num_epochs: int = 3, steps: int = 40, *, ends: bool = True) -> list:
    """A run as it is logged: losses fall, one refusal, one message."""
    events: list[dict[str, Any]] = [
        {
            "kind": "run_start",
            "run_id": "<night-owl>",
            "planned_steps": num_epochs * steps,
            "steps_per_epoch": steps,
            "epochs": num_epochs,
            "precision": "fp16",
            "device": "cuda:0",
            "num_parameters": 85_780_000,
        },
        {"kind": "message", "level": "warning", "text": "<script>x</script>"},
    ]
    noise = random.Random(0)
    for epoch in range(1, num_epochs + 1):
        for step in range((epoch - 1) * steps + 1, epoch * steps + 1):
            events.append(
                {
                    "kind": "step",
                    "step": step,
                    "epoch": epoch - 1,
                    "loss": 2.0 / step + noise.random(),
                    "lr": 1e-3,
                    "grad_norm": 1.0,
                    "refused": 0,
                    "samples_per_s": 512.0,
                }
            )
        values = {
            "device/allocated_bytes": 10.2e9,
            "host/rss_bytes": 3.1e9,
            "amp/loss_scale": 2.0**16 * epoch,
        }
        events.append({"kind": "monitor", "step": step, "values": values})
        row = {
            "train_loss": 2.0 / step,
            "val_loss": 1.9 / step,
            "val_accuracy": 1 - 1 / step,
            "val_recall": 0.8,
        }
        checked = {key: row[key] for key in row if key.startswith("val")}
        events.append({"kind": "evaluate", "step": step, "metrics": checked})
        events.append(
            {"kind": "epoch", "step": step, "epoch": epoch, "seconds": 1.0, **row}
        )
        events.append({"kind": "checkpoint", "step": step, "path": "p", "best": True})
    if ends:
        last = {"status": "finished", "reason": "completed", "seconds": 9.0}
        events.append({"kind": "run_end", "step": step, **last})
    return [{"time_s": 1000.0 + i, **event} for i, event in enumerate(events)]


def write_run(folder: Path, events: list) -> None:
    log = EventLog(folder / "events.jsonl")
    for event in events:
        fields = {k: v for k, v in event.items() if k not in ("time_s", "kind")}
        log.write(event["kind"], **fields)
    log.close()


def test_dashboard_tells_progress_epochs_and_escapes_texts():
    view = RunView.from_events(run_events(ends=False)[:-20])
    html = dashboard_html(view, ABOUT)
    for expected in (
        'role="progressbar"',
        'aria-valuemax="100"',
        " left",
        "<svg",
        "val_accuracy",
        "device memory 10 GB",
        "host memory 3.1 GB",
        "loss scale",
        "85.8 M parameters",
        "• training",
        "&lt;x&gt;</span>",
    ):
        assert expected in html, expected
    assert "<script>" not in html


def test_dashboard_of_an_ended_run_says_why():
    view = RunView.from_events(run_events())
    html = dashboard_html(view, ABOUT)
    assert "✓ finished" in html
    assert "completed" in html
    assert "took 0:09" in html
    assert "best, step" in html


def test_dashboard_of_a_killed_run_says_so():
    view = RunView.from_events(run_events(ends=False))
    html = dashboard_html(view, ABOUT, "killed")
    assert "! killed" in html
    assert "train() resumes it" in html
    assert " left" not in html


def test_dashboard_before_the_first_event_is_calm():
    html = dashboard_html(RunView(), ABOUT)
    assert "• starting" in html
    assert "nan" not in html


def test_dashboard_a_refusal_is_not_drowned_by_checkpoints():
    refused = {"kind": "refused", "step": 1, "loss": float("nan"), "time_s": 1.0}
    saved = [
        {"kind": "checkpoint", "step": n, "path": f"p{n}", "best": True, "time_s": 2.0}
        for n in range(20)
    ]
    html = dashboard_html(RunView.from_events([refused, *saved]), ABOUT)
    assert "! step 1 refused before the weights changed: loss nan" in html
    assert html.count("best so far") == 1
    assert "best so far, saved at step 19" in html


def test_dashboard_keeps_the_last_eight_epochs_and_names_the_best():
    view = RunView.from_events(run_events(12, 3))
    html = dashboard_html(view, ABOUT)
    assert html.count("<tr>") == 1 + 8
    assert "and 4 epochs before" in html
    assert "best ✓ 12" in html


def test_dashboard_with_odd_events_is_drawn():
    odd = [
        {"kind": "run_start", "time_s": 0.0},
        {"kind": "step", "step": 1, "loss": None, "time_s": 1.0},
        {"kind": "step", "step": 2, "loss": float("nan"), "lr": None, "time_s": 2.0},
        {"kind": "step", "step": 3, "loss": float("inf"), "time_s": 3.0},
        {"kind": "monitor", "values": {"device/utilization": None, "x": 1}},
        {"kind": "monitor", "step": 4},
        {"kind": "histogram", "step": 4, "name": "w", "edges": [], "counts": []},
        {"kind": "never seen"},
        {"kind": "alert", "level": "warning", "title": "<b>", "text": "look"},
        {"kind": "epoch", "epoch": 1, "step": 3, "val_loss": float("nan")},
        {"kind": "checkpoint", "step": 3, "path": "p"},
        {"kind": "stop"},
        {"kind": "run_end", "status": "failed", "reason": None, "time_s": 9.0},
    ]
    html = dashboard_html(RunView.from_events(odd), ABOUT)
    assert "! failed" in html
    assert "warning: &lt;b&gt;: look" in html


@pytest.mark.parametrize("num_names", [4, 40])
def test_dashboard_update_is_under_ten_kilobytes_whatever_the_run(num_names):
    events = run_events(30, 200)
    for event in events:
        if event["kind"] in ("epoch", "evaluate"):
            more = {f"val_a_rather_long_metric_{i}": i / 3 for i in range(num_names)}
            (event["metrics"] if event["kind"] == "evaluate" else event).update(more)
        if event["kind"] == "message":
            event["text"] = "long " * 500
    events += [
        {"kind": "refused", "step": 7, "culprit": "c" * 900, "time_s": 1.0}
    ] * 900
    parts = render(RunView.from_events(events), ABOUT, hint="h" * 200)
    assert len(parts.joined().encode()) < 10_000


def test_live_panel_week_long_run_is_throttled_and_small():
    """A million steps in a week: each tenth is logged, as is the default."""
    slot, clock = Slot(), Clock()
    panel = LivePanel("runs/x", slot, clock)
    events = run_events(50, 2000)
    for first in range(0, len(events), 500):  # as many draws as a test has time for
        panel.take(events[first : first + 500])
        clock.now_s += 3000.0
        panel.refresh()
    panel.close()
    assert clock.now_s > 600_000
    assert max(len(parts.joined().encode()) for parts in slot.drawn) < 10_000
    assert len(slot.html.encode()) < 60_000
    assert "✓ finished" in slot.html


def test_live_panel_draws_twice_a_second_at_most_and_charts_seldom():
    slot, clock = Slot(), Clock()
    panel = LivePanel("runs/x", slot, clock)
    for event in run_events(20, 500, ends=False):
        clock.now_s += 0.01
        panel.update(event)
    assert len(slot.drawn) <= 2 * clock.now_s + 1
    charts = {parts.charts for parts in slot.drawn}
    assert len(charts) <= 0.2 * clock.now_s + 1


def test_live_panel_where_drawing_is_slow_is_drawn_less():
    clock = Clock()

    class Slow(Slot):
        def show(self, parts: Parts) -> None:
            super().show(parts)
            clock.now_s += 0.1

    slot = Slow()
    panel = LivePanel("runs/x", slot, clock)
    for event in run_events(20, 500, ends=False):
        clock.now_s += 0.01
        panel.update(event)
    assert 2 < len(slot.drawn) <= 0.01 * clock.now_s / 0.1 + 1


def test_live_panel_close_leaves_the_whole_run():
    slot = Slot()
    panel = LivePanel("runs/x", slot)
    for event in run_events():
        panel.update(event)
    panel.close()
    assert slot.html.count("<svg") == 4
    assert "nb.show_run" not in slot.html
    assert slot.text.startswith("x: ✓ finished completed")


def test_live_panel_of_a_run_without_events_closes():
    slot = Slot()
    LivePanel("runs/x", slot).close()
    assert "starting" in slot.html


def test_live_panel_tells_what_run_json_says(tmp_path):
    record = '{"task": "Vision", "wandb_url": "https://w/1", "verdict": '
    record += '{"passed": true, "depth": "standard", "ids": {"R1": "warn"}}}'
    (tmp_path / "run.json").write_text(record)
    (tmp_path / "config.yaml").write_text(
        "recipe: vision\n  monitor: val_recall  # arg\n"
    )
    slot = Slot()
    panel = LivePanel(tmp_path, slot)
    for event in run_events():
        panel.update(event)
    assert "preflight passed (standard, 1 warning)" in slot.drawn[0].head
    assert "W&amp;B https://w/1" in slot.drawn[0].head
    panel.close()
    assert "vision · cuda:0 · fp16" in slot.html
    assert slot.html.index("val_recall") < slot.html.index("val_accuracy")


def test_widget_slot_sends_only_what_changed_and_ends_as_plain_html(monkeypatch):
    before, shown, sent = set(live_models()), [], []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    def display(bundle, raw, display_id):
        shown.append(bundle)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    slot = WidgetSlot()
    for part in slot._parts:
        part.observe(lambda change: sent.append(change["new"]), names="value")
    slot.show(Parts(head="a", charts="b", notes="c"))
    slot.show(Parts(head="A", charts="b", notes="c"))
    assert sent == ["a", "b", "c", "A"]
    assert "widget-view" in str(list(shown[0]))
    slot.end("<b>end</b>", "end")
    assert list(shown[1]) == ["text/html", "text/plain"]
    assert slot.box.children[0].value == "<b>end</b>"
    left = [model for key, model in live_models().items() if key not in before]
    kinds = [type(model).__name__ for model in left]
    assert (kinds.count("HTML"), kinds.count("VBox")) == (1, 1)


def test_display_slot_updates_one_display(monkeypatch):
    calls = []

    class Handle:
        def update(self, bundle, raw):
            calls.append(bundle["text/html"])

    def display(bundle, raw, display_id):
        calls.append("first")
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    slot, parts = DisplaySlot(), Parts(head="a", charts="", notes="")
    for _ in range(3):
        slot.show(parts)
    slot.end("<b>", "t")
    assert calls == ["first", "<b>"]


def test_slot_without_ipywidgets_is_a_display(monkeypatch):
    monkeypatch.setattr(slots.importlib.util, "find_spec", lambda name: None)
    assert isinstance(slots.make_slot(), DisplaySlot)


def test_attach_outside_a_kernel_registers_nothing(tmp_path, capsys):
    assert notebook.attach() is False
    display.show("text")
    assert capsys.readouterr().out == "text\n"
    assert type(display.make_panel(tmp_path, RunConfig())) is TextPanel


def test_headless_kernel_gets_lines_and_a_page_at_the_end(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda b, raw: shown.append(b))
    display.register(notebook.show_object, notebook.make_live_panel)
    panel = display.make_panel(tmp_path, RunConfig())
    assert isinstance(panel, HeadlessPanel)
    for event in run_events():
        panel.update(event)
    assert shown == []
    panel.close()
    assert list(shown[0]) == ["text/html", "text/plain"]
    assert "<svg" in shown[0]["text/html"]


def test_show_object_text_is_printed_and_html_has_its_text(capsys):
    class Card:
        def __str__(self) -> str:
            return "card as text"

        def _repr_html_(self) -> str:
            return "<b>card</b>"

    notebook.show_object("plain")
    notebook.show_object(Card())
    notebook.show_object(3)
    out = capsys.readouterr().out
    assert out.startswith("plain\n")
    assert "card as text" in out
    assert "3" in out


def test_show_run_outside_a_kernel_prints_a_screen(tmp_path, capsys):
    write_run(tmp_path, run_events())
    show_run(tmp_path)
    out = capsys.readouterr().out
    assert "✓ finished" in out
    assert "Ended after 0:09: completed" in out
    assert "val_accuracy" in out


def test_show_run_without_a_name_takes_the_newest(tmp_path, capsys):
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_run(tmp_path / "runs" / name, run_events())
    show_run()
    assert "Run second" in capsys.readouterr().out


def test_show_run_without_a_name_where_there_is_none_says_so(tmp_path):
    with pytest.raises(EnvironmentProblem, match="there is no run in"):
        show_run()


def test_show_run_follow_reads_on_until_the_run_ends(tmp_path, capsys):
    events = run_events()
    write_run(tmp_path, events[:-1])
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind": "st')  # being written
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        write_run(tmp_path, events[-1:])

    with run_lock(tmp_path):
        leave_after(tmp_path, looks, sleep, events)
    show_run(tmp_path, follow=True, sleep=sleep)
    assert capsys.readouterr().out.count("Ended after") == 1


def leave_after(path: Path, looks: list, sleep: Any, events: list) -> None:
    """Follow a run that is held and ends while somebody looks."""

    def once(seconds: float) -> None:
        if looks:
            raise KeyboardInterrupt
        sleep(seconds)

    show_run(path, follow=True, sleep=once)


def test_show_run_follow_of_a_killed_run_ends_and_says_so(tmp_path, capsys):
    write_run(tmp_path, run_events(ends=False))
    show_run(tmp_path, follow=True, sleep=pytest.fail)
    assert "! killed: its process ended without a word" in capsys.readouterr().out


def test_show_run_follow_a_resumed_run_goes_on(tmp_path, capsys):
    events = run_events()
    write_run(tmp_path, events)
    later = [
        {"kind": "resume", "step": 80, "epoch": 2, "checkpoint": "c"},
        *events[-2:],
    ]
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:
            write_run(tmp_path, later)
        else:
            raise KeyboardInterrupt  # the lock is held: it would go on

    with run_lock(tmp_path):
        show_run(tmp_path, follow=True, sleep=sleep)
    out = capsys.readouterr().out
    assert "resumed at step 80 from c" in out
    assert "Stopped looking" in out


def test_show_run_follow_waits_for_a_run_that_starts_up(tmp_path, capsys):
    def sleep(seconds: float) -> None:
        write_run(tmp_path, run_events())

    show_run(tmp_path, follow=True, sleep=sleep)
    out = capsys.readouterr().out
    assert out.startswith(f"Waiting for the run in {tmp_path} to start")
    assert "Ended after" in out


def test_show_run_follow_of_no_run_gives_up(tmp_path):
    looks: list[float] = []
    with pytest.raises(EnvironmentProblem, match="holds no run"):
        show_run(tmp_path, follow=True, wait_s=3, sleep=looks.append)
    assert sum(looks) == 3


def test_show_run_in_a_kernel_shows_html(tmp_path, monkeypatch):
    write_run(tmp_path, run_events())
    slot = Slot()
    monkeypatch.setattr(show, "in_kernel", lambda: True)
    monkeypatch.setattr(show, "is_interactive", lambda: True)
    monkeypatch.setattr(show, "make_slot", lambda: slot)
    show_run(tmp_path, follow=True)
    assert slot.html.count("<svg") == 4
    assert "✓ finished" in slot.html
    assert len(slot.drawn) == 1


def test_show_run_once_in_a_kernel_makes_no_widget(tmp_path, monkeypatch):
    write_run(tmp_path, run_events(ends=False))
    before, shown = set(live_models()), []
    monkeypatch.setattr("IPython.display.display", lambda b, raw: shown.append(b))
    monkeypatch.setattr(show, "in_kernel", lambda: True)
    show_run(tmp_path)
    (bundle,) = shown
    assert "! killed" in bundle["text/html"]
    assert "Stop the run and save" not in bundle["text/html"]
    assert set(live_models()) == before


def test_show_run_of_no_run_names_those_nearby(tmp_path):
    run = tmp_path / "runs" / "owl"
    run.mkdir(parents=True)
    write_run(run, run_events())
    with pytest.raises(EnvironmentProblem, match="holds no run") as caught:
        show_run(tmp_path / "runs")
    assert str(run) in str(caught.value)


def test_show_run_of_a_damaged_log_names_the_line(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"kind": "run_start"}\nnonsense\n')
    with pytest.raises(EnvironmentProblem, match="Line 2 of"):
        show_run(tmp_path)


def test_live_panel_of_a_resumed_run_shows_what_was_before(tmp_path, monkeypatch):
    slot = Slot()
    monkeypatch.setattr("nbutils.ui.panel.make_slot", lambda: slot)
    monkeypatch.setattr(notebook, "is_interactive", lambda: True)
    write_run(tmp_path, run_events())
    panel = notebook.make_live_panel(tmp_path, None)
    panel.update({"kind": "resume", "step": 80, "epoch": 2, "time_s": 9e9})
    assert slot.drawn[0].charts.count("<svg") == 4
    assert "1 × resumed" in slot.drawn[0].head


def test_live_panel_where_the_past_is_damaged_says_so_and_goes_on(tmp_path, capsys):
    (tmp_path / "events.jsonl").write_text("nonsense\n")
    panel = notebook.make_live_panel(tmp_path, None)
    assert "What this run did before cannot be shown: Line 1" in capsys.readouterr().out
    assert not panel.view.counts
