"""Which numbers go to a service, how many, and what is said without one."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbutils.config import RunConfig
from nbutils.errors import ConfigError, EnvironmentProblem
from nbutils.tracking.factory import make_tracker
from nbutils.tracking.tracker import NoTracker, StepLimiter, numbers


def test_make_tracker_none_mirrors_nothing(tmp_path: Path) -> None:
    tracker = make_tracker(RunConfig(), tmp_path, "r")
    assert isinstance(tracker, NoTracker)
    tracker.write({"kind": "step"})
    tracker.finish(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_make_tracker_without_its_package_raises_with_the_pip_line(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    config = RunConfig(tracker=package)
    importlib.import_module(f"nbutils.tracking.{package}")
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(EnvironmentProblem, match=f"pip install {package}"):
        make_tracker(config, tmp_path, "r")


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
        ({"kind": "refused", "step": 3, "loss": 0.1}, {"events/refused": 1.0}),
        ({"kind": "message", "text": "x"}, {}),
    ],
)
def test_numbers_of_each_kind(
    event: dict[str, Any], expected: dict[str, float]
) -> None:
    assert numbers({"time_s": 1.0, **event}) == expected


def test_step_limiter_passes_a_burst_then_a_rate_and_every_other_kind() -> None:
    now = [0.0]
    limiter = StepLimiter(burst=5, per_s=10, clock=lambda: now[0])
    step = {"kind": "step"}
    assert [limiter.admits(step) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.admits({"kind": "epoch"})
    now[0] = 0.11
    assert [limiter.admits(step) for _ in range(2)] == [True, False]
    assert limiter.num_left_out == 3
