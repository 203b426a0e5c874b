"""Which numbers go to a service, and which services a config makes."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nbutils as nb
from nbutils.config import RunConfig
from nbutils.errors import ConfigError, EnvironmentProblem
from nbutils.testing import make_task
from nbutils.tracking.factory import check_packages, make_tracker, tracker_names
from nbutils.tracking.tracker import Bins, NoTracker, Several, bins, numbers


def test_make_tracker_none_mirrors_nothing(tmp_path: Path) -> None:
    tracker = make_tracker(RunConfig(), tmp_path, "r")
    assert isinstance(tracker, NoTracker)
    tracker.write({"kind": "step"})
    tracker.finish(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("none", ()),
        ([], ()),
        ("wandb", ("wandb",)),
        (["tensorboard", "wandb"], ("wandb", "tensorboard")),
        ("tensorboard, wandb", ("wandb", "tensorboard")),
        (("tensorboard",), ("tensorboard",)),
    ],
)
def test_tracker_names_of_texts_and_lists(
    given: Any, names: tuple[str, ...], tmp_path: Path
) -> None:
    config = RunConfig(tracker=given)
    assert tracker_names(config) == names
    path = config.save(tmp_path / "config.yaml")
    assert RunConfig.load(path) == config


def test_tracker_list_in_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("tracking:\n  tracker: [tensorboard, wandb]\n  tags: [a, 2026]\n")
    config = RunConfig.load(path)
    assert config.tracking.tracker == "wandb,tensorboard"
    assert config.tracking.tags == ("a", "2026")


@pytest.mark.parametrize(
    "given", ["", "mlflow", ["wandb", "mlflow"], ["none", "wandb"]]
)
def test_tracker_that_is_unknown_is_named_with_what_there_is(given: Any) -> None:
    with pytest.raises(ConfigError, match="one of 'none', 'wandb', 'tensorboard', or"):
        RunConfig(tracker=given)


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
@pytest.mark.parametrize("error", [ModuleNotFoundError("gone"), TypeError("broken")])
def test_missing_package_raises_with_the_pip_line_and_leaves_nothing(
    package: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def absent(name: str, *more: Any) -> Any:
        if name in ("wandb", "torch.utils.tensorboard"):
            raise error
        return real(name, *more)

    run = nb.TrainingCoordinator(
        make_task(), run_dir=tmp_path / "run", epochs=1, tracker=package
    )
    real(f"nbutils.tracking.{package}")
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(EnvironmentProblem, match=f"pip install {package}"):
        run.train()
    assert not (tmp_path / "run").exists()


def test_check_packages_of_a_disabled_service_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = RunConfig(tracker="wandb", wandb_mode="disabled")
    monkeypatch.setattr(importlib, "import_module", lambda name: 1 / 0)
    check_packages(config)


def test_make_tracker_of_unknown_kind_raises(tmp_path: Path) -> None:
    config = SimpleNamespace(tracking=SimpleNamespace(tracker="mlflow"))
    with pytest.raises(ConfigError, match="tracker is 'mlflow'; it must be"):
        make_tracker(config, tmp_path, "r")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            {"kind": "step", "step": 1, "loss": 1, "lr": 0.1, "grad_norm": None},
            {"train/loss": 1.0, "train/lr": 0.1},
        ),
        (
            {
                "kind": "evaluate",
                "split": "val",
                "metrics": {"val_loss": 1, "acc": 0.5},
            },
            {"val/loss": 1.0, "val/acc": 0.5},
        ),
        (
            {"kind": "epoch", "epoch": 2, "step": 4, "val_loss": 0.5, "note": "x"},
            {"epoch/val_loss": 0.5},
        ),
        (
            {"kind": "monitor", "step": 4, "values": {"amp/loss_scale": 2, "x": None}},
            {"amp/loss_scale": 2.0},
        ),
        ({"kind": "monitor", "step": 4}, {}),
        ({"kind": "refused", "step": 3, "loss": 0.1}, {"events/refused": 1.0}),
        ({"kind": "message", "text": "x"}, {}),
        ({"kind": "from a later version"}, {}),
    ],
)
def test_numbers_of_each_kind(
    event: dict[str, Any], expected: dict[str, float]
) -> None:
    assert numbers({"time_s": 1.0, **event}) == expected


def test_bins_of_a_histogram_and_of_nothing_to_draw() -> None:
    event = {"kind": "histogram", "name": "g/0", "edges": [0, 1, 2], "counts": [3, 4]}
    assert bins(event) == Bins("g/0", (0.0, 1.0, 2.0), (3.0, 4.0))
    assert bins(event | {"edges": [0, 1]}) is None
    assert bins(event | {"counts": [], "edges": []}) is None
    assert bins({"kind": "step"}) is None


class Failing(NoTracker):
    def write(self, event: Any) -> None:
        raise OSError("first")


class Counting(NoTracker):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def write(self, event: Any) -> None:
        self.seen.append(event["kind"])

    def finish(self, exit_code: int = 0) -> None:
        self.seen.append(exit_code)


def test_several_trackers_go_on_beside_one_that_fails() -> None:
    counting = Counting()
    several = Several({"a": Failing(), "b": counting})
    with pytest.raises(OSError, match="first"):
        several.write({"kind": "step"})
    several.finish(3)
    assert counting.seen == ["step", 3]


def test_failing_start_of_one_tracker_is_told_once_and_the_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    adapter = importlib.import_module("nbutils.tracking.wandb")

    def refuse(*_args: Any, **_options: Any) -> None:
        raise ConnectionError("no way")

    monkeypatch.setattr(adapter, "open_run", refuse)
    run_dir = tmp_path / "run"
    nb.TrainingCoordinator(
        make_task(), run_dir=run_dir, epochs=2, tracker=["wandb", "tensorboard"]
    ).train()
    told = (run_dir / "events.jsonl").read_text()
    assert told.count("W&B failed: ConnectionError: no way") == 1
    assert list((run_dir / "tensorboard").iterdir())
    assert '"status": "finished"' in (run_dir / "run.json").read_text()
    shutil.rmtree(run_dir)
