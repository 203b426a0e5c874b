from __future__ import annotations

import pytest

from nbutils.config import RunConfig
from nbutils.errors import EnvironmentProblem
from nbutils.monitor import display
from nbutils.monitor.display import TextPanel
from nbutils.monitor.events import EventLog
from nbutils.monitor.runview import RunView
from nbutils.ui import notebook, show
from nbutils.ui.dashboard import curves_html, dashboard_html
from nbutils.ui.panel import LivePanel
from nbutils.ui.show import show_run


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run_events(num_epochs: int = 3, steps: int = 40, *, ends: bool = True) -> list:
    """A run as it is logged: losses fall, one refusal, one message."""
    events = [
        {
            "kind": "run_start",
            "run_id": "<night-owl>",
            "planned_steps": num_epochs * steps,
            "steps_per_epoch": steps,
            "epochs": num_epochs,
            "precision": "fp32",
            "device": "cpu",
            "num_parameters": 1000,
        },
        {"kind": "message", "level": "warning", "text": "<script>x</script>"},
    ]
    for epoch in range(1, num_epochs + 1):
        for step in range((epoch - 1) * steps + 1, epoch * steps + 1):
            events.append(
                {
                    "kind": "step",
                    "step": step,
                    "epoch": epoch - 1,
                    "loss": 2.0 / step,
                    "lr": 1e-3,
                    "grad_norm": 1.0,
                    "refused": 0,
                    "samples_per_s": 512.0,
                }
            )
        row = {"train_loss": 2.0 / step, "val_loss": 1.9 / step, "val_accuracy": 0.9}
        events.append(
            {"kind": "epoch", "step": step, "epoch": epoch, "seconds": 1.0, **row}
        )
    if ends:
        last = {"status": "finished", "reason": "completed", "seconds": 9.0}
        events.append({"kind": "run_end", "step": step, **last})
    return [{"time_s": 1000.0 + i, **event} for i, event in enumerate(events)]


def write_run(folder, events) -> None:
    log = EventLog(folder / "events.jsonl")
    for event in events:
        fields = {k: v for k, v in event.items() if k not in ("time_s", "kind")}
        log.write(event["kind"], **fields)
    log.close()


def test_dashboard_tells_progress_epochs_and_escapes_texts():
    view = RunView.from_events(run_events(ends=False)[:-20])
    html = dashboard_html(view, curves_html(view), "runs/<x>")
    assert 'role="progressbar"' in html
    assert "time left" in html
    assert "<svg" in html
    assert "val_accuracy" in html
    assert "<script>" not in html
    assert "&lt;x&gt;</strong> training on" in html
    assert "runs/&lt;x&gt;" in html


def test_dashboard_of_an_ended_run_says_why():
    view = RunView.from_events(run_events())
    html = dashboard_html(view, curves_html(view), "runs/x")
    assert "ended, finished: completed" in html
    assert "took <b>0:09</b>" in html


def test_dashboard_before_the_first_event_is_calm():
    assert "getting ready" in dashboard_html(RunView(), "", "runs/x")


def test_dashboard_a_refusal_is_not_drowned_by_checkpoints():
    refused = {"kind": "refused", "step": 1, "loss": float("nan"), "time_s": 1.0}
    saved = [
        {"kind": "checkpoint", "step": n, "path": f"p{n}", "best": True, "time_s": 2.0}
        for n in range(20)
    ]
    html = dashboard_html(RunView.from_events([refused, *saved]), "", "runs/x")
    assert "step 1 refused before the weights changed: loss nan" in html
    assert "best so far saved at step 19" in html
    assert "p18" not in html


def test_dashboard_keeps_the_last_eight_epochs():
    view = RunView.from_events(run_events(12, 3))
    html = dashboard_html(view, "", "runs/x")
    assert html.count("<tr>") == 1 + 8


def test_live_panel_long_run_is_throttled_and_small():
    drawn: list[str] = []
    clock = Clock()
    panel = LivePanel("runs/x", drawn.append, clock)
    events = run_events(20, 500)
    for event in events:
        clock.now_s += 0.001
        panel.update(event)
    panel.close()
    assert len(drawn) <= 2 * clock.now_s + 2
    assert max(len(html.encode()) for html in drawn) < 10_000
    assert "ended" in drawn[-1]


def test_live_panel_draws_charts_less_often_than_text():
    drawn: list[str] = []
    clock = Clock()
    panel = LivePanel("runs/x", drawn.append, clock)
    for event in run_events(1, 20, ends=False):
        clock.now_s += 0.5
        panel.update(event)
    charts = {html[html.find("<svg") : html.rfind("</svg>")] for html in drawn}
    assert len(charts) < len(drawn) / 2


def test_live_panel_close_leaves_the_final_html():
    drawn: list[str] = []
    panel = LivePanel("runs/x", drawn.append)
    panel.close("<b>done</b>")
    assert drawn == ["<b>done</b>"]


def test_attach_outside_a_kernel_registers_nothing(tmp_path, capsys):
    assert notebook.attach() is False
    display.show("text")
    assert capsys.readouterr().out == "text\n"
    assert isinstance(display.make_panel(tmp_path, RunConfig()), TextPanel)


def test_live_panel_in_a_headless_kernel_is_left_to_text(tmp_path):
    display.register(notebook.show_object, notebook.make_live_panel)
    assert isinstance(display.make_panel(tmp_path, RunConfig()), TextPanel)


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


def test_show_run_outside_a_kernel_prints_lines(tmp_path, capsys):
    write_run(tmp_path, run_events())
    show_run(tmp_path)
    out = capsys.readouterr().out
    assert "run ended: finished, completed" in out
    assert "epoch 3/3 done" in out


def test_show_run_follow_reads_on_until_the_run_ends(tmp_path, capsys):
    events = run_events()
    write_run(tmp_path, events[:-1])
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        write_run(tmp_path, events[-1:])

    show_run(tmp_path, follow=True, sleep=sleep)
    assert len(looks) == 1
    assert capsys.readouterr().out.count("run ended") == 1


def test_show_run_follow_interrupt_stops_looking(tmp_path):
    write_run(tmp_path, run_events(ends=False))

    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        raise KeyboardInterrupt

    show_run(tmp_path, follow=True, sleep=sleep)
    assert len(looks) == 1


def test_show_run_in_a_kernel_shows_html(tmp_path, monkeypatch):
    write_run(tmp_path, run_events())
    drawn: list[str] = []
    monkeypatch.setattr(show, "in_kernel", lambda: True)
    monkeypatch.setattr(show, "DisplaySlot", lambda: drawn.append)
    show_run(tmp_path)
    assert "<svg" in drawn[0]


def test_show_run_of_no_run_names_those_nearby(tmp_path):
    run = tmp_path / "runs" / "owl"
    run.mkdir(parents=True)
    write_run(run, run_events())
    with pytest.raises(EnvironmentProblem, match="holds no run") as caught:
        show_run(tmp_path / "runs")
    assert str(run) in str(caught.value)
