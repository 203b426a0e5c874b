"""The report tells a run from its directory alone, and what it did not find."""

from __future__ import annotations

import csv
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nbutils.config import RunConfig
from nbutils.environment.card import Row, render_card
from nbutils.errors import EnvironmentProblem
from nbutils.monitor.events import EventLog
from nbutils.monitor.figures import plot_confusion, save_figure
from nbutils.monitor.record import RunRecord, best_row, write_metrics_csv
from nbutils.monitor.report import write_report
from nbutils.monitor.reporting.cost import energy_wh
from nbutils.monitor.reporting.course import sittings
from nbutils.monitor.rundir import RunDirectory

NASTY = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    """A finished run of three epochs with one refusal."""
    directory = RunDirectory(tmp_path / "night-owl").create()
    with EventLog(directory.events_path) as log:
        log.write("run_start", planned_steps=30, epochs=3, device="cpu")
        for step in range(1, 31):
            loss = math.nan if step == 7 else 1 / step
            log.write("step", step=step, epoch=(step - 1) // 10, loss=loss, lr=0.1)
            if step == 7:
                log.write("refused", step=7, loss=loss, grad_norm=1.0, batch_file=NASTY)
            if step % 10 == 0:
                accuracy = [0.5, 0.9, 0.8][step // 10 - 1]
                numbers = {"val_loss": 1 / step, "val_accuracy": accuracy}
                log.write("epoch", step=step, epoch=step // 10, **numbers)
                path = f"checkpoints/step-{step}"
                log.write("checkpoint", step=step, path=path, best=step <= 20)
        log.write("run_end", status="finished", reason=f"done {NASTY}", seconds=61.0)
    return directory


def fill(directory: RunDirectory) -> None:
    """Everything else that a run directory may hold."""
    RunConfig(epochs=3, monitor="val_accuracy", mode="max").save(directory.config_path)
    metrics = {"accuracy": 0.875, "confusion": [[7, 1], [0, 8]], NASTY: {"a": []}}
    directory.write_json(
        "run.json", {"run_id": "r1", "created_s": 1.8e9, "test_metrics": metrics}
    )
    directory.write_json("environment.json", {"torch": "2.x", "disks": [{"a": 1}]})
    card = render_card("Preflight", "pass", NASTY, [Row("pass", "Shapes")])
    directory.write_text("preflight.html", card)
    save_figure(
        plot_confusion([[7, 1], [0, 8]], ["a", "b"]), directory.figures_dir / "c.png"
    )


def test_report_of_a_full_run_tells_everything(run_dir: RunDirectory) -> None:
    fill(run_dir)
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    for expected in (
        "night-owl",
        "best val_accuracy at step 20",
        "1:01",
        "Preflight",
        '<th scope="row">monitor</th><td>val_accuracy</td><td>argument</td>',
        "0.875",
        "data:image/png;base64,",
        "step 7 refused before the weights changed",
        "1 not finite, not drawn",
        '<th scope="row">torch</th>',
        "what the run recorded about its data",
        "<td>2027-01-15 08:00:00 UTC</td>",
    ):
        assert expected in html
    assert Page(html).tags.count("svg") == 3


def test_report_escapes_what_the_run_recorded(run_dir: RunDirectory) -> None:
    fill(run_dir)
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    assert NASTY not in html
    page = Page(html)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1


def test_report_needs_no_network_and_forbids_it(run_dir: RunDirectory) -> None:
    fill(run_dir)
    page = Page(write_report(run_dir.path).read_text(encoding="utf-8"))
    loads = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("data:", "#")) for value in loads)
    assert any("default-src 'none'" in value for _, value in page.attributes)


def test_report_of_a_bare_record_names_what_is_missing_in_one_section(
    tmp_path: Path,
) -> None:
    (tmp_path / "run.json").write_text("{}")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    for missing in (
        "none ran before training",
        "steps or epochs in events.jsonl",
        "test numbers",
        "saved figures in figures/",
        "a finished epoch",
        "<li>config.yaml",
        "<li>environment.json",
        "<li>run.json",
        "its process was killed",
    ):
        assert missing in html
    assert Page(html).tags.count("h2") == 2


def test_report_of_a_folder_without_a_run_says_where_runs_are(
    tmp_path: Path, run_dir: RunDirectory
) -> None:
    with pytest.raises(EnvironmentProblem, match="holds nothing of a run"):
        write_report(run_dir.figures_dir)
    with pytest.raises(EnvironmentProblem, match="Folders of runs in it: night-owl"):
        write_report(tmp_path)


def test_report_of_a_killed_run_does_not_call_it_finished(
    run_dir: RunDirectory,
) -> None:
    lines = run_dir.events_path.read_bytes().splitlines(keepends=True)
    run_dir.events_path.write_bytes(b"".join(lines[:20]) + b'{"kind": "st')
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    assert "its process was killed" in html


def test_report_with_a_whole_preflight_page_sandboxes_it(run_dir: RunDirectory) -> None:
    run_dir.write_text("preflight.html", "<!doctype html><p>page</p>")
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    assert '<iframe sandbox srcdoc="&lt;!doctype html&gt;' in html


def test_report_with_preflight_json_alone_tells_the_verdict(
    run_dir: RunDirectory,
) -> None:
    verdict = {"passed": True, "depth": "static", "ids": {"R1": "warn", "R9": "skip"}}
    findings = [{"id": "R1", "title": f"labels {NASTY}"}]
    run_dir.write_json("preflight.json", {"verdict": verdict, "findings": findings})
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    assert "checks passed, 1 with a warning" in html
    assert "Checks that warned: R1 (labels &lt;img" in html
    assert "Checks that were skipped: R9." in html
    assert "The checks were static only" in html


def test_report_with_default_settings_and_many_events_says_so(
    run_dir: RunDirectory,
) -> None:
    RunConfig().save(run_dir.config_path)
    with EventLog(run_dir.events_path) as log:
        for number in range(300):
            log.write("message", text=str(number))
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    assert "All settings are default." in html
    assert "are left out." in html
    assert html.count("info: ") <= 160


def test_report_of_no_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="There is no folder"):
        write_report(tmp_path / "none")


def test_write_metrics_csv_has_a_line_per_epoch(run_dir: RunDirectory) -> None:
    with write_metrics_csv(run_dir.path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_accuracy"] for row in rows] == ["0.5", "0.9", "0.8"]
    assert list(rows[0]) == ["step", "epoch", "val_loss", "val_accuracy"]


def test_record_best_is_the_epoch_of_the_best_checkpoint(run_dir: RunDirectory) -> None:
    RunConfig(monitor="val_accuracy", mode="max").save(run_dir.config_path)
    assert RunRecord.read(run_dir.path).best == {
        "metric": "val_accuracy",
        "value": 0.9,
        "step": 20,
        "epoch": 2,
        "path": "checkpoints/step-20",
    }


def test_record_best_in_run_json_wins(run_dir: RunDirectory) -> None:
    run_dir.write_json("run.json", {"best": {"metric": "m", "value": 1, "step": 3}})
    assert RunRecord.read(run_dir.path).best["metric"] == "m"


def test_record_of_a_stopping_run_tells_the_request(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("stop", step=3, reason="requested: enough")
    assert RunRecord.read(tmp_path).stop_reason == "requested: enough"
    assert RunRecord.read(tmp_path).status == "unknown"


def test_record_of_a_resumed_run_does_not_repeat_the_old_reason(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("stop", step=3, reason="interrupt")
        log.write("run_end", status="stopped", reason="interrupt")
        log.write("resume", step=3, epoch=0)
    assert "still running" in RunRecord.read(tmp_path).stop_reason


def test_best_row_passes_over_nan_and_may_find_none() -> None:
    rows = [{"epoch": 1, "m": math.nan}, {"epoch": 2, "m": 0.0}, {"epoch": 3}]
    assert best_row(rows, "m", "min")["epoch"] == 2
    assert best_row(rows, "other", "max") == {}


def test_report_has_test_numbers_written_after_the_first_report(run_dir):
    write_report(run_dir.path)
    run_dir.write_json("run.json", {"best": {"metric": "val_accuracy", "value": 0.9}})
    run_dir.update_json("run.json", test_metrics={"accuracy": 0.8642, "loss": 0.31})
    text = write_report(run_dir.path).read_text(encoding="utf-8")
    assert "<b>0.8642</b><span>test accuracy, no interval</span>" in text
    assert '<th scope="row">accuracy</th><td class="n">0.8642</td>' in text
    assert "No interval for: accuracy, loss" in text
    assert "No trivial baseline was evaluated" in text


def test_report_leaves_out_refusals_and_resumes_where_there_were_none(tmp_path):
    directory = RunDirectory(tmp_path / "calm").create()
    with EventLog(directory.events_path) as log:
        log.write("epoch", step=5, epoch=1, val_loss=0.5, refused=0)
        log.write("checkpoint", step=5, path="c/5", best=True, bytes=3 * 2**20)
    text = write_report(directory.path).read_text(encoding="utf-8")
    assert "updates refused" not in text
    assert "resumes" not in text
    assert "best so far, saved at step 5" in text


INTERVAL = {"low": 0.8, "high": 0.92, "method": "Wilson, 7 of 8", "num_samples": 268}
TEST = {
    "metrics": {"accuracy": 0.875, "loss": 0.4},
    "num_samples": 268,
    "step": 20,
    "time_s": 1.8e9,
    "intervals": {"accuracy": INTERVAL, "loss": {"reason": f"too odd {NASTY}"}},
    "baselines": [
        {
            "name": "most frequent class",
            "how": f"always says '{NASTY}'",
            "metrics": {"accuracy": 0.1, "loss": 2.3},
            "differences": {
                "accuracy": {
                    "value": 0.775,
                    "interval": {"low": 0.7, "high": 0.8},
                    "p_value": 1e-9,
                    "verdict": "better",
                },
                "loss": {
                    "value": -1.9,
                    "interval": {"low": -4.0, "high": 0.1},
                    "p_value": None,
                    "verdict": "not told apart",
                },
            },
        }
    ],
    "notes": ["The intervals assume independent samples."],
}


def test_report_shows_intervals_and_baselines_beside_the_test_numbers(
    run_dir: RunDirectory,
) -> None:
    RunConfig(monitor="val_accuracy", mode="max").save(run_dir.config_path)
    run_dir.write_json(
        "run.json", {"tests": {"best": TEST}, "test_weights": "best", "num_tests": 3}
    )
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    for expected in (
        "accuracy 0.875 (95% interval 0.8 to 0.92), better than",
        "no interval: too odd &lt;img",
        "better (McNemar p &lt; 0.001)",
        "looked at 3 times",
        "or worse: loss.",
        "The intervals assume independent samples.",
        "0.875 (0.8 to 0.92)",
        'aria-label="accuracy: 0.8 to 0.92"',
    ):
        assert expected in html
    assert NASTY not in html


def test_report_of_a_run_that_was_killed_twice_lists_its_processes(
    tmp_path: Path,
) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_start", step=0, device="cuda", planned_steps=100)
        log.write("step", step=40)
        log.write("resume", step=30, epoch=0)
        log.write("run_start", step=30, device="cpu", planned_steps=100)
        log.write("stop", step=60, reason="interrupt")
        log.write("run_end", status="stopped", reason="interrupt", step=60)
        log.write("resume", step=60, epoch=1)
        log.write("run_start", step=60, device="cpu", planned_steps=100)
        log.write("step", step=70)
    RunDirectory(tmp_path).write_json("run.json", {"status": "running"})
    found = sittings(RunRecord.read(tmp_path).events)
    assert [(s.first_step, s.last_step, s.device) for s in found] == [
        (0, 40, "cuda"),
        (30, 60, "cpu"),
        (60, 70, "cpu"),
    ]
    (tmp_path / ".lock").touch()  # and nobody holds it
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "killed: no end was recorded and no process holds it" in html
    assert "10 steps were done again" in html
    assert html.count("no end recorded: killed") == 2
    assert "The run did 70 of 100 planned steps (70%)." in html


def test_report_of_damaged_files_tells_them_and_the_rest(run_dir: RunDirectory) -> None:
    lines = run_dir.events_path.read_bytes().splitlines(keepends=True)
    lines[3], lines[5] = b'{"kind": "st\n', b"\xff\xfe\n"
    lines.append(b'{"time_s":1,"kind":"epoch"}\n')
    run_dir.events_path.write_bytes(b"".join(lines))
    (run_dir.path / "run.json").write_text("{nope")
    run_dir.config_path.write_bytes(b"\xff\xff")
    (run_dir.path / "environment.json").write_text("[1]")
    (run_dir.figures_dir / "x.png").write_text("no picture")
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    for expected in (
        "2 of 40 lines were left out",
        "1 events lack a field",
        "run.json cannot be read",
        "config.yaml cannot be read",
        "it holds a list",
        "Only on disk: x.png",
        "<b>30</b><span>steps of 30 planned</span>",
    ):
        assert expected in html


def test_report_of_many_epochs_stays_small(tmp_path: Path) -> None:
    lines = [
        f'{{"time_s":{step},"kind":"{kind}","step":{step},"epoch":{step},'
        f'"val_loss":{1 / step},"loss":1.0}}'
        for step in range(1, 5001)
        for kind in ("step", "epoch", "refused")
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    page = write_report(tmp_path)
    assert page.stat().st_size < 200_000
    assert "epochs are left out; metrics.csv has all" in page.read_text()


def test_report_makes_large_figures_smaller_and_stays_under_two_megabytes(
    run_dir: RunDirectory,
) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(256, size=(900, 1200, 3), dtype=np.uint8)
    for number in range(4):
        Image.fromarray(noise).save(run_dir.figures_dir / f"noise{number}.png")
    page = write_report(run_dir.path)
    assert page.stat().st_size < 2_000_000
    assert "Only on disk: " in page.read_text(encoding="utf-8")


def test_report_has_one_main_and_headings_in_order(run_dir: RunDirectory) -> None:
    fill(run_dir)
    page = Page(write_report(run_dir.path).read_text(encoding="utf-8"))
    assert [page.tags.count(tag) for tag in ("main", "h1", "nav")] == [1, 1, 1]
    keys = {value for name, value in page.attributes if name == "id"}
    named = [v for n, v in page.attributes if n == "aria-labelledby"]
    links = [v[1:] for n, v in page.attributes if n == "href"]
    assert keys >= {*named, *links}
    assert page.tags.count("h2") == len(named)
    assert all(value for name, value in page.attributes if name == "alt")


def test_cost_counts_energy_over_readings_and_not_over_pauses(tmp_path: Path) -> None:
    def reading(time_s: float, power_w: float) -> dict[str, object]:
        values = {"device/power_w": power_w}
        return {"time_s": time_s, "kind": "monitor", "step": 1, "values": values}

    events = [reading(0, 100), reading(36, 300), reading(9000, 300), reading(9036, 100)]
    assert energy_wh(events) == (pytest.approx(4.0), 72.0)
    assert energy_wh(events[:1]) == (None, 0.0)


def test_report_tells_the_price_that_is_given(run_dir: RunDirectory) -> None:
    html = write_report(run_dir.path, price_per_hour=0.5).read_text(encoding="utf-8")
    assert "at 0.5 an hour, pauses not counted" in html


def test_report_repeats_a_run_of_own_code_by_its_config(run_dir: RunDirectory) -> None:
    RunConfig(epochs=3).save(run_dir.config_path)
    code = {"commit": "abc123", "is_dirty": True}
    run_dir.write_json(
        "run.json", {"code": code, "samples": {"train": 5, "test": None}}
    )
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    assert "your own code makes them" in html
    assert "code at commit abc123, with changes that are not committed" in html
    assert "The task has no test data" in html
