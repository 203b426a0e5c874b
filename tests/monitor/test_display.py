"""Without a notebook the panel is a few lines, however long the run."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbutils.config import RunConfig
from nbutils.monitor import display
from nbutils.monitor.display import TextPanel, make_panel, register, show


@pytest.fixture(autouse=True)
def _unregister() -> Iterator[None]:
    before = dict(display._registered)
    register(None, None)
    yield
    display._registered.update(before)


def step_event(step: int, **fields: object) -> dict[str, object]:
    return {"time_s": float(step), "kind": "step", "step": step, "loss": 0.5, **fields}


def run(num_steps: int, planned: int | None, seconds: float, epochs: int) -> list[str]:
    """The lines of a made-up run."""
    out, clock = io.StringIO(), [0.0]
    panel = TextPanel(out, clock=lambda: clock[0])
    start = {"planned_steps": planned, "epochs": epochs, "run_id": "r"}
    panel.update({"time_s": 0.0, "kind": "run_start", **start})
    for step in range(1, num_steps + 1):
        clock[0] += seconds
        panel.update(step_event(step, epoch=step * epochs // (num_steps + 1)))
        if step % max(num_steps // epochs, 1) == 0:
            epoch = step // max(num_steps // epochs, 1)
            panel.update(
                {"time_s": clock[0], "kind": "epoch", "epoch": epoch, "step": step}
            )
    end = {"status": "finished", "reason": "completed", "step": num_steps}
    panel.update({"time_s": clock[0], "kind": "run_end", "seconds": 3.0, **end})
    panel.close()
    return out.getvalue().splitlines()


@pytest.mark.parametrize("planned", [20_000, None])
@pytest.mark.parametrize("seconds", [0.001, 0.1, 10.0])
@pytest.mark.parametrize("epochs", [1, 12, 1000])
def test_text_panel_of_any_run_stays_within_200_lines_and_tells_the_end(
    planned: int | None, seconds: float, epochs: int
) -> None:
    lines = run(20_000, planned, seconds, epochs)
    assert len(lines) <= 200
    assert lines[-1] == "run ended: finished, completed, step 20000, 0:03"


def test_text_panel_says_when_lines_are_left_out() -> None:
    out = io.StringIO()
    panel = TextPanel(out)
    for number in range(500):
        panel.update({"time_s": 0.0, "kind": "message", "text": f"m{number}"})
    lines = out.getvalue().splitlines()
    assert len(lines) == 190
    assert "events.jsonl has all" in lines[-1]


def test_text_panel_step_line_tells_all_numbers() -> None:
    out = io.StringIO()
    panel = TextPanel(out)
    panel.update({"time_s": 0.0, "kind": "run_start", "planned_steps": 40, "epochs": 4})
    metrics = {"val_loss": 0.6, "val_accuracy": 0.953}
    panel.update({"time_s": 1.0, "kind": "evaluate", "step": 0, "metrics": metrics})
    panel.update(step_event(20, epoch=1, lr=1.2e-3, samples_per_s=210.4, refused=2))
    assert out.getvalue().splitlines()[-1] == (
        "epoch 2/4  step 20/40  loss 0.5  val_accuracy 0.953  lr 1.2e-03  "
        "210 samples/s  2 refused  0:20 left"
    )


def test_text_panel_epoch_line_tells_metrics_and_duration() -> None:
    out = io.StringIO()
    row = {"epoch": 2, "step": 9, "lr": 0.1, "val_loss": 0.25, "seconds": 1.26}
    for refused in (0, 3):
        TextPanel(out).update({"time_s": 0, "kind": "epoch", **row, "refused": refused})
    assert out.getvalue().splitlines() == [
        "epoch 2 done  val_loss 0.25  in 1.3 s",
        "epoch 2 done  val_loss 0.25  3 refused  in 1.3 s",
    ]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"kind": "resume", "step": 7, "checkpoint": "c"}, "resumed at step 7 from c"),
        ({"kind": "refused", "step": 7, "loss": math.nan}, "loss nan"),
        (
            {"kind": "refused", "step": 7, "loss": 1.0, "settling_scale": 512.0},
            "grad_norm -; the loss scale settles",
        ),
        ({"kind": "refused", "culprit": "module a", "batch_file": "b"}, "b; module a"),
        (
            {"kind": "rollback", "step": 9, "to_step": 6, "reason": "4 in a row"},
            "rolled back to step 6: 4 in a row",
        ),
        (
            {"kind": "watchdog", "id": "W4", "severity": "serious", "text": "flat"},
            "serious W4: flat",
        ),
        ({"kind": "oom", "step": 7, "micro_batch": 8}, "batch now 8"),
        ({"kind": "message", "level": "warning", "text": "hi"}, "warning: hi"),
        ({"kind": "stop", "step": 7, "reason": "time"}, "stopping at step 7: time"),
    ],
)
def test_text_panel_tells_rare_events(event: dict[str, object], expected: str) -> None:
    out = io.StringIO()
    TextPanel(out).update({"time_s": 0.0, **event})
    assert expected in out.getvalue()


def test_show_without_registration_prints(capsys: pytest.CaptureFixture[str]) -> None:
    show("hello")
    assert capsys.readouterr().out == "hello\n"


def test_show_and_make_panel_use_what_is_registered(tmp_path: Path) -> None:
    shown: list[object] = []
    panel = TextPanel()
    register(shown.append, lambda run_dir, config: panel)
    show(3)
    assert shown == [3]
    assert make_panel(tmp_path, RunConfig()) is panel


def test_make_panel_whose_factory_declines_is_text(tmp_path: Path) -> None:
    register(None, lambda run_dir, config: None)
    assert isinstance(make_panel(tmp_path, RunConfig()), TextPanel)


def test_make_panel_that_is_off_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = make_panel(tmp_path, RunConfig(panel="off"))
    panel.update(step_event(1))
    panel.close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("planned", [1_000_000, None])
@pytest.mark.parametrize("epochs", [3, 500, 0])
def test_text_panel_of_a_week_thins_out_and_never_stops_talking(
    planned: int | None, epochs: int
) -> None:
    out, clock, told_s = io.StringIO(), [0.0], [0.0]
    panel = TextPanel(out, clock=lambda: clock[0])
    panel.update({"time_s": 0, "kind": "run_start", "planned_steps": planned})
    panel.view.start["epochs"] = epochs
    for step in range(0, 1_000_000, 100):
        clock[0] = 0.6 * step
        before = panel.num_lines
        panel.update(step_event(step))
        if epochs and step % (1_000_000 // epochs) < 100:
            number = step * epochs // 1_000_000
            panel.update({"time_s": 0, "kind": "epoch", "epoch": number, "step": step})
        if panel.num_lines > before:
            told_s.append(clock[0])
    end = {"status": "finished", "reason": "completed", "step": 10**6}
    panel.update({"time_s": 0.6e6, "kind": "run_end", "seconds": 0.6e6, **end})
    lines = out.getvalue().splitlines()
    assert 40 < len(lines) <= 200
    assert lines[-1].startswith("run ended: finished")
    gaps_s = [b - a for a, b in itertools.pairwise(told_s)]
    assert max(gaps_s) <= 0.25 * 600_000
    assert "left out" not in out.getvalue()


def test_text_panel_of_endless_refusals_thins_them() -> None:
    out = io.StringIO()
    panel = TextPanel(out)
    for step in range(5_000):
        panel.update({"time_s": 0.0, "kind": "refused", "step": step})
    lines = out.getvalue().splitlines()
    assert len(lines) < 30
    assert "(4096 of this kind so far; events.jsonl has all)" in lines[-1]


def test_text_panel_takes_the_past_at_once_and_tells_a_killed_run() -> None:
    out = io.StringIO()
    panel = TextPanel(out)
    panel.take([])
    panel.take([step_event(step) for step in range(1, 9)])
    panel.take([{"time_s": 9.0, "kind": "stop", "step": 9, "reason": "time"}])
    panel.refresh("killed")
    assert out.getvalue().splitlines() == [
        "step 8  loss 0.5",
        "stopping at step 9: time",
        f"! {display.KILLED}",
    ]


def test_text_panel_of_a_run_that_is_over_tells_its_end() -> None:
    out = io.StringIO()
    end = {"time_s": 9.0, "kind": "run_end", "status": "finished", "reason": "target"}
    TextPanel(out).take([step_event(1), end])
    assert out.getvalue().splitlines()[-1].startswith("run ended: finished, target")


def test_attach_panel_goes_to_who_is_registered(tmp_path: Path) -> None:
    assert display.attach_panel(tmp_path, "run") is None
    register(None, None, lambda run_dir, run: (run_dir, run))
    assert display.attach_panel(tmp_path, "run") == (tmp_path, "run")
