"""Loader workers that die or fail: told with the cause, saved, resumed bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import nbutils as nb
from nbutils.testing import assert_same, weights

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "preflight": "skip",
    "panel": "off",
    "save_every_epochs": None,
}


class Noisy(Dataset[Any]):
    """Samples with noise from all three generators; ``bad`` fails, ``deadly`` kills."""

    def __init__(self, count: int = 24, *, bad: int = -1, deadly: int = -1) -> None:
        self.count, self.bad, self.deadly = count, bad, deadly

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.bad:
            raise ValueError("the file is cut off")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = torch.rand(3) + float(np.random.rand()) + random.random()
        return torch.full((3,), index / 24.0) + noise, index % 2


class Stream(IterableDataset[Any]):
    def __init__(self, *, dies_at: int = -1) -> None:
        self.dies_at = dies_at

    def __iter__(self) -> Any:
        for index in range(24):
            if index == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield torch.full((3,), index / 24.0), index % 2


def task_of(data: Any) -> nb.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
    return nb.Task(model.append(nn.Linear(8, 2)), nn.CrossEntropyLoss(), data)


def run(task: nb.Task, folder: Path, *callbacks: Any, **more: Any) -> nb.TrainResult:
    options = {**SETTINGS, **more}
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **options
    ).train()


class KillWorker(nb.Callback):
    """Kills one of the loader's processes, and counts the ends of fits."""

    def __init__(self, step: int, number: int = signal.SIGKILL) -> None:
        self.step, self.number, self.num_ends = step, number, 0

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            victim = multiprocessing.active_children()[0]
            os.kill(int(victim.pid or 0), self.number)

    def on_fit_end(self, state: Any) -> None:
        self.num_ends += 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the run that nothing happened to, read in one process."""
    task = task_of(Noisy())
    run(task, tmp_path_factory.mktemp("whole") / "run")
    return weights(task)


def test_killed_worker_is_told_and_the_run_resumes_bit_for_bit(
    tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    kill = KillWorker(8)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    child_handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(nb.EnvironmentProblem, match="SIGKILL ended it") as caught:
        run(task_of(Noisy()), tmp_path / "run", kill, num_workers=2)
    text = str(caught.value)
    assert "'train'" in text
    assert "want of memory" in text
    assert "num_workers" in text
    assert kill.num_ends == 1
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert signal.getsignal(signal.SIGCHLD) is child_handler
    assert multiprocessing.active_children() == []
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["step"] >= 8
    folders = list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert max(int(folder.name[5:]) for folder in folders) == record["step"]
    resumed = task_of(Noisy())
    run(resumed, tmp_path / "run", num_workers=2)
    assert_same(weights(resumed), whole)


def test_worker_that_kills_itself_is_told_by_the_stream_too(tmp_path: Path) -> None:
    data = DataLoader(Stream(dies_at=13), batch_size=4, num_workers=1)
    with pytest.raises(nb.EnvironmentProblem, match="SIGKILL ended it"):
        run(task_of(data), tmp_path / "run")
    assert multiprocessing.active_children() == []
    healthy = DataLoader(Stream(), batch_size=4, num_workers=1)
    assert run(task_of(healthy), tmp_path / "run").stop_reason == "completed"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sample_that_cannot_be_read_is_named_and_the_run_resumes(
    tmp_path: Path, num_workers: int, whole: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(ValueError, match="the file is cut off") as caught:
        run(task_of(Noisy(bad=17)), tmp_path / "run", num_workers=num_workers)
    notes = getattr(caught.value, "__notes__", [])
    told = "\n".join([str(caught.value), *notes])
    assert "while reading sample 17 of 'train'" in told
    resumed = task_of(Noisy())
    run(resumed, tmp_path / "run", num_workers=num_workers)
    assert_same(weights(resumed), whole)


@pytest.mark.parametrize("stop_at", [None, 3, 8])
@pytest.mark.parametrize(
    ("num_workers", "prefetch"), [(0, None), (2, None), (2, 4), (1, 1)]
)
def test_augmentation_is_the_same_for_any_workers_over_a_resume(
    tmp_path: Path,
    num_workers: int,
    prefetch: int | None,
    stop_at: int | None,
    whole: dict[str, torch.Tensor],
) -> None:
    class StopAt(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == stop_at:
                state.request_stop("enough")

    def data() -> Any:
        if prefetch is None:
            return Noisy()
        options = {"persistent_workers": True, "prefetch_factor": prefetch}
        return DataLoader(
            Noisy(), batch_size=4, shuffle=True, num_workers=num_workers, **options
        )

    more = {"num_workers": num_workers} if prefetch is None else {}
    task = task_of(data())
    result = run(task, tmp_path / "run", StopAt(), **more)
    assert (result.steps == 18) == (stop_at is None)
    if stop_at is not None:
        task = task_of(data())
        run(task, tmp_path / "run", **more)
    assert_same(weights(task), whole)
