"""Runs side by side, on real runs of a second each."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.monitor.comparison.groups import letters
from nbutils.monitor.events import EventLog, read_events
from nbutils.monitor.lock import run_lock
from nbutils.monitor.rundir import RunDirectory

SEEDS = (0, 1, 2)


def make_task(width: int = 8, shift: float = 0.0) -> nb.Task:
    torch.manual_seed(7)
    x = torch.randn(96, 6) + shift
    y = (x[:, 0] > shift).long()
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))
    return nb.Task(model, nn.CrossEntropyLoss(), (x[:64], y[:64]), (x[64:], y[64:]))


def train(path: Path, seed: int, task: nb.Task | None = None, **more: Any) -> Any:
    task = task or make_task()
    torch.manual_seed(seed)
    for parameter in task.model.parameters():
        nn.init.normal_(parameter, std=0.3)
    settings = {"epochs": 3, "preflight": "skip", "panel": "off", **more}
    return nb.TrainingCoordinator(task, run_dir=path, seed=seed, **settings).train()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of two settings."""
    home = tmp_path_factory.mktemp("runs")
    for lr in (0.001, 0.05):
        for seed in SEEDS:
            train(home / f"lr{lr}-{seed}", seed, lr=lr)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def paths_of(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir())


def edit(path: Path, **fields: Any) -> None:
    RunDirectory(path).update_json("run.json", **fields)


def set_data(path: Path, value: str) -> None:
    parts = (RunDirectory(path).read_json("run.json") or {})["parts"]
    edit(path, parts={**parts, "data": {**parts["data"], "train": value}})


def texts(found: Any, severity: str) -> str:
    return " ".join(text for level, text in found.notes if level == severity)


def test_runs_of_other_seeds_are_one_group(made: Path) -> None:
    found = nb.compare_runs(paths_of(made))
    assert list(found.groups["label"]) == ["lr=0.001", "lr=0.05"]
    assert list(found.groups["n"]) == [3, 3]
    values = [
        min(row["val_loss"] for row in _rows(path)) for path in paths_of(made)[:3]
    ]
    assert found.groups["mean"][0] == pytest.approx(statistics.fmean(values))
    assert found.groups["std"][0] == pytest.approx(statistics.stdev(values))


def _rows(path: Path) -> list[dict[str, Any]]:
    events = read_events(path / "events.jsonl")
    return [event for event in events if event["kind"] == "epoch"]


def test_configs_hold_what_differs_and_nothing_else(made: Path) -> None:
    configs = nb.compare_runs(paths_of(made)).configs
    assert sorted(configs.index) == ["lr", "seed"]
    assert list(configs.loc["lr"]) == [0.001] * 3 + [0.05] * 3
    assert list(configs.loc["seed"]) == [0, 1, 2, 0, 1, 2]


def test_metrics_hold_best_and_final_of_each_run(made: Path) -> None:
    path = paths_of(made)[3]
    edit_free = nb.compare_runs(paths_of(made)).metrics.loc[path.name]
    rows = _rows(path)
    best = min(rows, key=lambda row: row["val_loss"])
    assert edit_free["best_val_loss"] == best["val_loss"]
    assert edit_free["best_train_loss"] == best["train_loss"]
    assert edit_free["final_val_loss"] == rows[-1]["val_loss"]
    assert edit_free["stop_reason"] == "completed"
    assert edit_free["group"] == "B"


def test_tests_hold_the_numbers_and_the_verdict(made: Path) -> None:
    tests = nb.compare_runs(paths_of(made)).tests
    row = tests.iloc[0]
    assert len(tests) == 1
    assert row["verdict"] == "too few seeds"
    assert row["p_smallest"] == 0.1
    assert row["ci_low"] < row["difference"] < row["ci_high"] < 0
    assert 0 < row["p_paired_t"] < 1


def test_results_are_taken_as_well_as_folders(tmp_path: Path) -> None:
    results = [train(tmp_path / str(seed), seed, epochs=1) for seed in (0, 1)]
    found = nb.compare_runs(results)
    assert list(found.metrics.index) == ["0", "1"]
    assert len(found.group_list) == 1
    assert found.tests.empty
    assert "1 setting" in str(found)


def test_metric_can_be_chosen_and_unknown_ones_are_named(made: Path) -> None:
    found = nb.compare_runs(paths_of(made), "train_loss")
    assert found.metric == "train_loss"
    assert "best epoch by val_loss" in texts(found, "info")
    with pytest.raises(nb.ConfigError, match="did you mean val_loss"):
        nb.compare_runs(paths_of(made), "val_los")


def test_test_metrics_can_be_compared(home: Path) -> None:
    for at, path in enumerate(paths_of(home)):
        edit(path, test_metrics={"loss": float(at)}, test_weights="best")
    found = nb.compare_runs(paths_of(home), "test_loss")
    assert list(found.groups["mean"]) == [1.0, 4.0]
    edit(paths_of(home)[0], test_weights="last")
    found = nb.compare_runs(paths_of(home), "test_loss")
    assert "different weights: best and last" in texts(found, "warn")


def test_same_data_needs_no_note(made: Path) -> None:
    found = nb.compare_runs(paths_of(made))
    assert texts(found, "fail") == ""
    assert all(found.fingerprints.values())
    assert {"model", "code loss", "data train"} <= set(found.fingerprints)


def test_different_data_is_told_loudly(tmp_path: Path) -> None:
    train(tmp_path / "a", 0)
    train(tmp_path / "b", 0, make_task(shift=1.0))
    found = nb.compare_runs([tmp_path / "a", tmp_path / "b"])
    assert "DIFFERENT DATA: a and b differ in train and val" in texts(found, "fail")
    assert found.fingerprints["data train"] is False
    assert found.fingerprints["model"] is True
    assert str(found).splitlines()[2].startswith("✗ DIFFERENT DATA")
    assert 'role="alert"' in found._repr_html_()


def test_split_that_the_seed_draws_is_no_different_data(home: Path) -> None:
    for path in paths_of(home):
        set_data(path, f"of seed {path.name[-1]}")
    found = nb.compare_runs(paths_of(home))
    assert texts(found, "fail") == ""
    assert "the seed draws the split" in texts(found, "info")
    assert list(found.groups["n"]) == [3, 3]


def test_data_that_changed_for_one_run_of_a_seed_is_told(home: Path) -> None:
    for path in paths_of(home):
        set_data(path, f"of seed {path.name[-1]}")
    set_data(paths_of(home)[4], "changed")
    found = nb.compare_runs(paths_of(home))
    assert "runs of seed 1 among them" in texts(found, "fail")


def test_data_of_seeds_that_stand_alone_cannot_be_excused(home: Path) -> None:
    first, second = paths_of(home)[:2]
    set_data(second, "other")
    found = nb.compare_runs([first, second])
    assert "If the seed draws the split, this is expected" in texts(found, "fail")


def test_runs_without_recorded_parts_are_told(home: Path) -> None:
    first, second = paths_of(home)[:2]
    for path in (first, second):
        edit(path, parts=None)
    found = nb.compare_runs([first, second])
    assert "the same in all runs" in texts(found, "info")
    edit(second, task_fingerprint="other")
    found = nb.compare_runs([first, second])
    assert "which cannot be told" in texts(found, "warn")
    assert list(found.fingerprints.values()) == [False]


def test_models_of_other_sizes_are_other_groups(tmp_path: Path) -> None:
    for width in (4, 8):
        for seed in (0, 1):
            train(tmp_path / f"{width}-{seed}", seed, make_task(width), epochs=1)
    found = nb.compare_runs(paths_of(tmp_path))
    assert [group.n for group in found.group_list] == [2, 2]
    assert "38 parameters" in found.group_list[0].label
    assert found.fingerprints["model"] is False


def test_seed_that_ran_twice_counts_once(home: Path) -> None:
    first = paths_of(home)[0]
    shutil.copytree(first, home / "again")
    found = nb.compare_runs([*paths_of(home)])
    assert list(found.groups["n"]) == [3, 3]
    assert "each seed counts once" in texts(found, "info")


def test_settings_without_effect_do_not_part_seeds(tmp_path: Path) -> None:
    train(tmp_path / "a", 0, epochs=1, keep_last=1)
    train(tmp_path / "b", 1, epochs=1, keep_last=3)
    found = nb.compare_runs([tmp_path / "a", tmp_path / "b"])
    assert len(found.group_list) == 1
    assert "keep_last" in found.configs.index


def test_environment_holds_what_differs(home: Path) -> None:
    first, second = paths_of(home)[:2]
    assert nb.compare_runs([first, second]).environment.empty
    file = second / "environment.json"
    facts = json.loads(file.read_text())
    facts["facts"]["torch"] = "2.6.0"
    facts["facts"]["packages"] = facts["facts"]["packages"].replace("numpy ", "numpy x")
    file.write_text(json.dumps(facts))
    table = nb.compare_runs([first, second]).environment
    assert sorted(table.index) == ["package numpy", "torch"]
    assert table.loc["torch", second.name] == "2.6.0"


def test_run_that_did_not_end_by_plan_is_told(home: Path) -> None:
    first, second = paths_of(home)[:2]
    edit(first, status="running")  # and no process holds it
    log = second / "events.jsonl"
    log.write_text(log.read_text().replace('"status":"finished"', '"status":"stopped"'))
    edit(second, status="stopped")
    found = nb.compare_runs([first, second])
    assert f"{first.name} is killed: 6 steps of 6 planned" in texts(found, "warn")
    assert f"{second.name} is stopped (completed)" in texts(found, "warn")
    assert list(found.metrics["status"]) == ["killed", "stopped"]


def test_value_that_is_not_finite_is_left_out_and_told(home: Path) -> None:
    first = paths_of(home)[0]
    log = first / "events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "epoch":
            line["val_loss"] = {"$float": "nan"}
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    edit(first, best=None)
    found = nb.compare_runs(paths_of(home))
    assert list(found.groups["n"]) == [2, 3]
    assert f"not finite in {first.name}" in texts(found, "warn")
    assert not math.isnan(found.groups["mean"][0])
    assert json.loads(found.to_json())["runs"][0]["best"]["val_loss"] is None


def test_runs_on_other_devices_are_told(home: Path) -> None:
    first, second = paths_of(home)[:2]
    log = second / "events.jsonl"
    log.write_text(log.read_text().replace('"device":"cpu"', '"device":"cuda"'))
    found = nb.compare_runs([first, second])
    assert "different devices (cpu and cuda)" in texts(found, "info")
    assert "device" in found.environment.index


def test_equal_names_are_told_apart_by_their_folders(home: Path) -> None:
    first, second = paths_of(home)[:2]
    for place, path in (("x", first), ("y", second)):
        shutil.copytree(path, home / place / "same")
    found = nb.compare_runs([home / "x" / "same", home / "y" / "same"])
    assert list(found.metrics.index) == ["x/same", "y/same"]


def test_cost_tells_steps_and_duration(made: Path) -> None:
    cost = nb.compare_runs(paths_of(made)).cost
    assert list(cost["steps"]) == [6] * 6
    assert list(cost["planned_steps"]) == [6] * 6
    assert (cost["duration_s"] > 0).all()


def test_html_escapes_every_name(home: Path) -> None:
    odd = home / "<b>x&y"
    paths_of(home)[0].rename(odd)
    found = nb.compare_runs([odd, *paths_of(home)[1:]], "val_loss")
    for html in (found._repr_html_(), found.to_html()):
        assert "<b>x&y" not in html
        assert "&lt;b&gt;x&amp;y" in html
    assert "<script" not in found.to_html()


def test_page_is_written_whole(made: Path, tmp_path: Path) -> None:
    path = nb.compare_runs(paths_of(made)).save(tmp_path / "page.html")
    html = path.read_text()
    assert html.startswith("<!doctype html>")
    assert html.count("<svg") == 3
    assert "default-src 'none'" in html


def test_plot_draws_curves_and_seeds(made: Path) -> None:
    figure = nb.compare_runs(paths_of(made)).plot()
    left, right = figure.axes
    assert len(left.lines) == 8  # six runs and two means
    assert len(right.collections) >= 2
    assert "too few seeds" in figure.get_suptitle()


def test_json_is_plain(made: Path) -> None:
    values = json.loads(nb.compare_runs(paths_of(made)).to_json())
    assert values["configs"]["lr"] == [0.001] * 3 + [0.05] * 3
    assert values["tests"][0]["verdict"] == "too few seeds"
    assert [run["name"] for run in values["runs"]] == [p.name for p in paths_of(made)]


def test_one_run_and_no_list_are_refused(made: Path) -> None:
    path = paths_of(made)[0]
    with pytest.raises(nb.ConfigError, match="needs at least 2 run directories"):
        nb.compare_runs([path])
    with pytest.raises(nb.ConfigError, match="must be a list of run directories"):
        nb.compare_runs(str(path))
    with pytest.raises(nb.ConfigError, match="twice; give each run once"):
        nb.compare_runs([path, path.parent / "." / path.name])


def test_folder_without_a_run_names_those_in_it(made: Path, tmp_path: Path) -> None:
    path = paths_of(made)[0]
    with pytest.raises(nb.EnvironmentProblem, match=r"Runs in it: .*lr0\.001-0"):
        nb.compare_runs([made, path])
    with pytest.raises(nb.EnvironmentProblem, match="There is no folder"):
        nb.compare_runs([tmp_path / "absent", path])
    with pytest.raises(nb.EnvironmentProblem, match="holds no run"):
        nb.compare_runs([tmp_path, path])


def test_run_under_way_is_refused(home: Path) -> None:
    first, second = paths_of(home)[:2]
    edit(first, status="running")
    with (
        run_lock(first),
        pytest.raises(nb.EnvironmentProblem, match="still running, at step 6"),
    ):
        nb.compare_runs([first, second])


def test_run_without_an_epoch_is_refused(made: Path, tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("run_start", planned_steps=10)
    with pytest.raises(nb.EnvironmentProblem, match="has not finished an epoch"):
        nb.compare_runs([paths_of(made)[0], tmp_path])


def test_runs_that_share_no_metric_ask_for_one(home: Path) -> None:
    first, second = paths_of(home)[:2]
    for path, name in ((first, "left"), (second, "right")):
        log = path / "events.jsonl"
        text = log.read_text().replace("val_loss", f"val_{name}")
        log.write_text(text.replace("train_loss", f"train_{name}"))
        edit(path, best=None)
    with pytest.raises(nb.ConfigError, match=r"metric is not given.*Choose one"):
        nb.compare_runs([first, second])


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list"])
def test_damaged_settings_are_told(home: Path, text: str) -> None:
    first, second = paths_of(home)[:2]
    (first / "config.yaml").write_text(text)
    with pytest.raises(nb.EnvironmentProblem, match=r"config\.yaml cannot be read"):
        nb.compare_runs([first, second])


def test_runs_without_settings_stand_alone(home: Path) -> None:
    first, second = paths_of(home)[:2]
    for path in (first, second):
        (path / "config.yaml").unlink()
    found = nb.compare_runs([first, second])
    assert [group.n for group in found.group_list] == [1, 1]
    assert found.better == "lower"
    assert found.configs.empty


def test_many_settings_are_a_table(home: Path) -> None:
    for at in range(2):
        for path in paths_of(home)[:3]:
            twin = home / f"more-{at}-{path.name}"
            shutil.copytree(path, twin)
            text = (twin / "config.yaml").read_text()
            changed = text.replace("lr: 0.001", f"lr: 0.00{at + 2}")
            (twin / "config.yaml").write_text(changed)
    found = nb.compare_runs([*paths_of(home)])
    assert len(found.judgements) == 6
    assert len(found.tests) == 6
    assert "corrected for 6 comparisons" in " ".join(str(found).split())
    assert "corrected for 6 comparisons" in found._repr_html_()
    assert repr(found) == str(found)


def test_letters_go_on_after_z() -> None:
    assert [letters(at) for at in (0, 25, 26, 51, 52)] == ["A", "Z", "AA", "AZ", "BA"]
