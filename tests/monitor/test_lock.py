"""A run directory has one writer at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nbutils as nb
from nbutils.monitor.lock import run_lock
from nbutils.testing import make_task

HOLD = """
import sys
from pathlib import Path
from nbutils.monitor.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_of_another_process_is_refused_until_that_one_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        refused = rf"under way: process {other.pid} on .*STOP.*another run_name"
        with pytest.raises(nb.EnvironmentProblem, match=refused), run_lock(tmp_path):
            pass
        other.kill()
        other.wait()
    with run_lock(tmp_path):
        assert "process" in (tmp_path / ".lock").read_text(encoding="utf-8")


def test_lock_is_refused_to_a_second_run_of_this_process(tmp_path: Path) -> None:
    class Again(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 2:
                with pytest.raises(nb.EnvironmentProblem, match="this one"):
                    train(tmp_path / "run")
                refusals.append(state.step)

    def train(run_dir: Path, *callbacks: Any) -> Any:
        return nb.TrainingCoordinator(
            make_task(),
            run_dir=run_dir,
            callbacks=callbacks,
            max_steps=4,
            preflight="skip",
            panel="off",
            device="cpu",
        ).train()

    refusals: list[int] = []
    assert train(tmp_path / "run", Again()).stop_reason == "completed"
    assert refusals == [2]
    assert train(tmp_path / "run").stop_reason == "completed"


def test_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    with run_lock(tmp_path):
        pass
