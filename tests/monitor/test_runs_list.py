"""A list of runs says how each stands, also those that say nothing themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import nbutils as nb
from nbutils.monitor import standing as standing_module
from nbutils.monitor.events import EventLog
from nbutils.monitor.lock import is_held, run_lock
from nbutils.monitor.names import better_direction, did_you_mean
from nbutils.monitor.rundir import RunDirectory
from nbutils.monitor.runs_list import run_rows, runs_text
from nbutils.monitor.standing import quick_record
from nbutils.testing import make_task


def make_run(
    path: Path,
    *,
    loss: float = 0.5,
    created_s: float = 1e9,
    status: str = "finished",
    **fields: Any,
) -> Path:
    path.mkdir(parents=True)
    with EventLog(path / "events.jsonl") as log:
        log.write("run_start", planned_steps=30, epochs=3)
        for step in range(1, 11):
            log.write("step", step=step, loss=1.0, epoch=0)
            log.write("monitor", step=step, values={"host/rss_bytes": 1.0})
        log.write("epoch", step=10, epoch=1, val_loss=loss, val_accuracy=1 - loss)
        log.write("step", step=15, loss=1.0, epoch=1)
        if status != "running":
            log.write("run_end", status=status, reason="completed", seconds=5, step=15)
    best = {"metric": "val_loss", "value": loss, "step": 10, "epoch": 1}
    record = {"status": status, "created_s": created_s, "best": best, **fields}
    RunDirectory(path).write_json("run.json", record)
    return path


def test_rows_tell_all_of_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "owl", task="Net")
    row = nb.list_runs(tmp_path).iloc[0]
    assert (row["name"], row["status"], row["stop_reason"]) == (
        "owl",
        "finished",
        "completed",
    )
    assert (row["metric"], row["best"]) == ("val_loss", 0.5)
    assert (row["steps"], row["planned_steps"], row["epochs"]) == (15, 30, 1)
    assert row["duration_s"] == 5
    assert row["recipe"] == "Net"
    assert row["started"].startswith("2001-09-0")
    files = sum(f.stat().st_size for f in (tmp_path / "owl").iterdir())
    assert row["size_bytes"] == files


def test_newest_run_stands_first(tmp_path: Path) -> None:
    for name, created_s in (("b", 2e9), ("a", 1e9), ("c", 1.5e9)):
        make_run(tmp_path / name, created_s=created_s)
    assert list(nb.list_runs(tmp_path)["name"]) == ["b", "c", "a"]
    assert list(nb.list_runs(tmp_path, sort="name")["name"]) == ["a", "b", "c"]


def test_sorting_by_a_metric_puts_the_best_first_and_shows_it(tmp_path: Path) -> None:
    for name, loss in (("a", 0.5), ("b", 0.1), ("c", 0.3)):
        make_run(tmp_path / name, loss=loss)
    by_loss = nb.list_runs(tmp_path, sort="val_loss")
    assert list(by_loss["name"]) == ["b", "c", "a"]
    by_accuracy = nb.list_runs(tmp_path, sort="val_accuracy")
    assert list(by_accuracy["name"]) == ["b", "c", "a"]
    assert list(by_accuracy["val_accuracy"]) == [0.9, 0.7, 0.5]
    assert list(nb.list_runs(tmp_path, sort="best")["name"]) == ["b", "c", "a"]
    assert "val_accuracy" in runs_text(run_rows(tmp_path, "val_accuracy"))


def test_unknown_sort_says_what_there_is(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    with pytest.raises(nb.ConfigError, match="did you mean val_accuracy"):
        nb.list_runs(tmp_path, sort="accuracy")


def test_run_without_a_process_was_killed(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", status="running")
    assert run_rows(tmp_path)[0]["status"] == "killed"
    with run_lock(path):
        assert run_rows(tmp_path)[0]["status"] == "running"
    assert run_rows(tmp_path)[0]["status"] == "killed"


def test_run_of_another_process_is_running_until_that_dies(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", status="running")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from nbutils.monitor.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_held(path)
        assert run_rows(tmp_path)[0]["status"] == "running"
        other.kill()
        other.wait()
    assert is_held(path) is False
    assert run_rows(tmp_path)[0]["status"] == "killed"


def test_asking_for_the_lock_does_not_take_it(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        assert is_held(tmp_path)
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from nbutils.monitor.lock import is_held\n"
            "print(is_held(Path(sys.argv[1])))\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"


def test_without_locks_a_quiet_run_counts_as_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path / "a", status="running")
    monkeypatch.setattr(standing_module, "is_held", lambda path: None)
    assert run_rows(tmp_path)[0]["status"] == "running"
    an_hour_ago = time.time() - 3600
    os.utime(path / "events.jsonl", (an_hour_ago, an_hour_ago))
    assert run_rows(tmp_path)[0]["status"] == "killed"


def test_runs_in_folders_of_the_folder_are_found(tmp_path: Path) -> None:
    make_run(tmp_path / "notebooks" / "deep")
    make_run(tmp_path / "flat")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    names = nb.list_runs(tmp_path, sort="name")["name"]
    assert list(names) == ["flat", "notebooks/deep"]


def test_damaged_run_is_a_row_and_hides_no_other(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    (make_run(tmp_path / "b") / "run.json").write_text("{")
    path = make_run(tmp_path / "c") / "events.jsonl"
    path.write_bytes(b"not json\n" + path.read_bytes())
    table = nb.list_runs(tmp_path, sort="name").set_index("name")
    assert list(table["status"]) == ["finished", "damaged", "damaged"]
    assert "cannot be read" in table.loc["b", "stop_reason"]
    assert "Line 1 of" in table.loc["c", "stop_reason"]


def test_quick_record_keeps_the_last_step_only(tmp_path: Path) -> None:
    record = quick_record(make_run(tmp_path / "a"))
    assert [event["step"] for event in record.events if event["kind"] == "step"] == [
        10,
        15,
    ]
    assert not [event for event in record.events if event["kind"] == "monitor"]
    assert record.view.step == 15


def test_folder_of_the_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "mine" / "a")
    monkeypatch.setenv("NBUTILS_RUNS_DIR", str(tmp_path / "mine"))
    assert list(nb.list_runs()["name"]) == ["a"]


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(nb.EnvironmentProblem, match="There is no folder"):
        nb.list_runs(tmp_path / "absent")
    assert len(nb.list_runs(tmp_path)) == 0
    assert "status" in nb.list_runs(tmp_path).columns
    assert runs_text(run_rows(tmp_path)) == "No runs."


def test_real_run_is_listed(tmp_path: Path) -> None:
    nb.TrainingCoordinator(
        make_task(), epochs=2, runs_dir=str(tmp_path), run_name="real"
    ).train()
    row = nb.list_runs(tmp_path).iloc[0]
    assert (row["name"], row["status"], row["steps"]) == ("real", "finished", 4)
    text = runs_text(run_rows(tmp_path))
    assert "4/4" in text
    assert "completed" in text


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_loss", "lower"),
        ("test_rmse", "lower"),
        ("val_accuracy", "higher"),
        ("auroc", "higher"),
        ("val_width", ""),
        ("glossary", ""),
    ],
)
def test_direction_of_a_metric(name: str, direction: str) -> None:
    assert better_direction(name) == direction


def test_direction_that_the_run_says_counts_first() -> None:
    assert better_direction("test_score", [("val_score", "min")]) == "lower"


def test_did_you_mean_prefers_validation() -> None:
    found = did_you_mean("accuracy", ["test_accuracy", "val_accuracy", "val_loss"])
    assert found.startswith("did you mean val_accuracy?")
    assert did_you_mean("zzz", []) == "known: none."
