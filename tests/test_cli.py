"""The command does what the functions do, and speaks in sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from nbutils import cli
from nbutils.config import RunConfig, presets
from nbutils.errors import PreflightError
from nbutils.launch.notebook import NotebookInterrupted
from nbutils.launch.watch import epoch_table
from nbutils.monitor.events import EventLog

ROOT = Path(__file__).parents[1]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), catch_exceptions=False)


def run_dir(folder: Path, *, num_epochs: int = 3, ended: bool = True) -> Path:
    folder.mkdir(parents=True)
    with EventLog(folder / "events.jsonl") as log:
        log.write("run_start", run_id="abc", planned_steps=30, epochs=num_epochs)
        for epoch in range(1, num_epochs + 1):
            log.write("step", step=10 * epoch, epoch=epoch, loss=1 / epoch, lr=0.1)
            log.write("epoch", step=10 * epoch, epoch=epoch, train_loss=1 / epoch)
        if ended:
            log.write(
                "run_end", status="finished", reason="completed", step=30, seconds=61
            )
    return folder


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys\nfrom nbutils.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print([n for n in ('torch', 'pydantic', 'ipywidgets') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.rstrip().endswith("[]")
    for name in ("doctor", "preflight", "run", "report", "watch", "presets"):
        assert f"  {name} " in done.stdout


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nbutils", "presets"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == presets()


def test_doctor_prints_the_card() -> None:
    done = call("doctor")
    assert done.exit_code == 0
    assert "Doctor" in done.stdout


def test_doctor_json_is_the_report_as_data() -> None:
    found = json.loads(call("doctor", "--json").stdout)
    assert set(found) == {"ok", "facts", "advice"}


def test_doctor_strict_follows_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ill:
        ok = False

    monkeypatch.setattr("nbutils.environment.doctor", Ill)
    assert call("doctor").exit_code == 0
    assert call("doctor", "--strict").exit_code == 1


def test_report_prints_the_path(tmp_path: Path) -> None:
    folder = run_dir(tmp_path / "night-owl")
    done = call("report", str(folder))
    assert done.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").stat().st_size > 1000


def test_report_tells_the_cost_at_a_price_given_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_dir(tmp_path / "owl")
    call("report", str(folder), "--price", "0.4")
    assert "at 0.4 an hour" in (folder / "report.html").read_text(encoding="utf-8")
    monkeypatch.setenv("NBUTILS_PRICE_PER_HOUR", "2")
    call("report", str(folder))
    assert "at 2 an hour" in (folder / "report.html").read_text(encoding="utf-8")
    done = call("report", str(folder), "--price", "cheap")
    assert done.exit_code == 1
    assert "ConfigError" in done.output


def test_report_of_a_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    run_dir(tmp_path / "owl")
    done = call("report", str(tmp_path))
    assert done.exit_code == 1
    assert "Folders of runs in it: owl" in done.output
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("command", ["report", "watch"])
def test_missing_run_directory_is_one_sentence_on_stderr(
    tmp_path: Path, command: str
) -> None:
    done = call(command, str(tmp_path / "absent"))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("EnvironmentProblem: ")
    assert "expected a run directory" in done.stderr


def test_watch_shows_the_last_epochs_and_the_end(tmp_path: Path) -> None:
    done = call("watch", str(run_dir(tmp_path / "owl", num_epochs=4)), "-n", "2")
    assert "Run owl" in done.stdout
    assert "(the last 2 of 4 epochs)" in done.stdout
    assert "0.3333" in done.stdout
    assert "0.25" in done.stdout
    assert "Ended after 1:01: completed" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if row and row[0] in "1234"] == ["3", "4"]


def test_watch_follow_ends_with_the_run(tmp_path: Path) -> None:
    done = call("watch", str(run_dir(tmp_path / "owl")), "--follow")
    assert done.exit_code == 0
    assert done.stdout.count("completed") == 1


def test_compare_prints_tables_json_and_a_page(tmp_path: Path) -> None:
    runs = [
        str(run_dir(tmp_path / name, num_epochs=n))
        for n, name in ((2, "owl"), (3, "elk"))
    ]
    page = tmp_path / "page.html"
    done = call("compare", *runs, "--metric", "train_loss", "--html", str(page))
    assert "2 runs of" in done.stdout
    assert "elk" in done.stdout
    assert f"page  {page}" in done.stdout
    assert "<svg" in page.read_text()
    values = json.loads(call("compare", *runs, "--json").stdout)
    assert [run["name"] for run in values["runs"]] == ["owl", "elk"]


def test_compare_says_what_is_wrong(tmp_path: Path) -> None:
    runs = [str(run_dir(tmp_path / name)) for name in ("owl", "elk")]
    done = call("compare", *runs, "--metric", "train_los")
    assert done.exit_code == 1
    assert "did you mean train_loss" in done.stderr
    assert call("compare").exit_code == 2


def test_runs_lists_a_folder(tmp_path: Path) -> None:
    for name in ("owl", "elk"):
        run_dir(tmp_path / "runs" / name)
    done = call("runs", str(tmp_path / "runs"), "--sort", "name")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["elk", "finished"], ["owl", "finished"]]
    values = json.loads(call("runs", str(tmp_path / "runs"), "--json").stdout)
    assert {row["steps"] for row in values} == {30}
    assert call("runs", str(tmp_path / "absent")).stderr.startswith(
        "EnvironmentProblem"
    )


def test_epoch_table_fills_what_a_row_lacks() -> None:
    table = epoch_table([{"epoch": 1}, {"epoch": 2, "val_loss": 0.5}])
    assert [line.split() for line in table.splitlines()] == [
        ["epoch", "val_loss"],
        ["1", "-"],
        ["2", "0.5"],
    ]


def test_run_config_with_errors_names_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 0\n")
    done = call("run", str(path), "-p", "lr=fast", "-p", "epoch=3")
    assert done.exit_code == 1
    assert done.stderr.startswith("ConfigError: 3 settings cannot be used:")
    assert "Traceback" not in done.output


def test_run_unknown_preset_lists_them() -> None:
    done = call("run", "vision/quik")
    assert done.exit_code == 1
    assert "did you mean vision/quick" in done.stderr


def test_run_pair_without_value_is_a_usage_error() -> None:
    done = call("run", "vision/quick", "-p", "epochs")
    assert done.exit_code == 2
    assert "'epochs' must be key=value" in done.stderr


def test_run_absent_notebook_is_refused(tmp_path: Path) -> None:
    done = call("run", str(tmp_path / "absent.ipynb"))
    assert done.exit_code == 1
    assert "is not a notebook" in done.stderr


def test_run_notebook_says_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def fake(path: str, parameters: dict[str, str], output_dir: str) -> Path:
        calls.append((path, parameters, output_dir))
        return Path(output_dir) / "x.ipynb"

    monkeypatch.setattr("nbutils.launch.notebook.run_notebook", fake)
    done = call("run", "x.ipynb", "-p", "epochs=3", "-p", "a=b=c", "--output-dir", "o")
    assert calls == [("x.ipynb", {"epochs": "3", "a": "b=c"}, "o")]
    assert done.stdout.split() == ["notebook", "o/x.ipynb", "page", "o/x.html"]


def test_run_notebook_that_was_interrupted_ends_with_130(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*_: Any) -> Path:
        raise NotebookInterrupted("x.ipynb: SIGINT stopped it")

    monkeypatch.setattr("nbutils.launch.notebook.run_notebook", stopped)
    done = call("run", "x.ipynb")
    assert done.exit_code == 130
    assert "NotebookInterrupted: x.ipynb: SIGINT stopped it" in done.output


def test_config_takes_file_or_preset_with_overrides(tmp_path: Path) -> None:
    path = RunConfig(epochs=5, seed=1).save(tmp_path / "mine.yaml")
    config = cli._config(str(path), {"train.epochs": "7", "betas": "[0.8, 0.9]"})
    assert (config.train.epochs, config.train.seed) == (7, 1)
    assert config.optim.betas == (0.8, 0.9)
    assert cli._config("vision/quick", {"lr": "1e-4"}).optim.lr == 1e-4


def test_failed_preflight_prints_its_report_before_the_error() -> None:
    @click.group(cls=type(cli.main))
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise PreflightError("1 check failed.", "the card")

    done = CliRunner().invoke(group, ["fail"])
    assert done.exit_code == 1
    assert done.stdout == "the card\n"
    assert done.stderr == "PreflightError: 1 check failed.\n"
