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
        "<td>monitor</td><td>val_accuracy</td><td>argument</td>",
        "0.875",
        "data:image/png;base64,",
        '<td class="k">refused</td>',
        "1 not finite, not drawn",
        "<th>torch</th>",
        "<td>2027-01-15 08:00:00 UTC</td>",
    ):
        assert expected in html
    assert "Not available" not in html
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
    assert all(value.startswith("data:") for value in loads)
    assert any("default-src 'none'" in value for _, value in page.attributes)


def test_report_of_an_empty_folder_names_what_is_missing(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text(encoding="utf-8")
    for missing in (
        "no preflight.html",
        "no steps and no epochs",
        "no test_metrics",
        "no PNG in figures/",
        "no finished epoch",
        "no config.yaml",
        "no environment.json",
        "no run.json",
        "its process was killed",
    ):
        assert missing in html


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
    run_dir.write_json("preflight.json", {"verdict": "passed", "failed": 0})
    html = write_report(run_dir.path).read_text(encoding="utf-8")
    assert "<th>verdict</th><td>passed</td>" in html


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
    assert '<div class="tile"><b>0.8642</b><span>test accuracy</span></div>' in text
    assert "<th>accuracy</th><td>0.8642</td>" in text


def test_report_leaves_out_refusals_and_resumes_where_there_were_none(tmp_path):
    directory = RunDirectory(tmp_path / "calm").create()
    with EventLog(directory.events_path) as log:
        log.write("epoch", step=5, epoch=1, val_loss=0.5, refused=0)
        log.write("checkpoint", step=5, path="c/5", best=True, bytes=3 * 2**20)
    text = write_report(directory.path).read_text(encoding="utf-8")
    assert "refused" not in text
    assert "resumes" not in text
    assert "best so far, step 5: c/5 (3.0 MiB)" in text
