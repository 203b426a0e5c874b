"""A training in a process of its own, to be killed.

``child.py run FOLDER`` trains once. ``child.py serve`` imports everything once and
forks a training for each request on its standard input, one JSON object a line:
``folder``, and perhaps ``die_at``, the number of the change to the checkpoints' folder
before which the training kills itself. The line ``kill`` ends the training under way.
Answers are lines: ``ready``, ``started``, then the exit status.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import nbutils as nb

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


class Augmented(Dataset[Any]):
    """Rows with noise from each of the three generators that people use."""

    def __init__(self, length: int) -> None:
        rng = torch.Generator().manual_seed(1)
        self.x = torch.randn(length, 16, generator=rng)
        self.y = (self.x[:, 0] > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        noise = torch.randn(16) + float(np.random.randn()) + random.gauss(0, 1)
        return self.x[index] + 0.1 * noise, self.y[index]


def train(folder: str, epochs: int = 6) -> nb.TrainResult:
    """Everything that has a state: it must all come back."""
    torch.manual_seed(7)
    model = nn.Sequential(
        nn.Linear(16, 128),
        nn.BatchNorm1d(128),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Linear(64, 2),
    )
    data = Augmented(62)
    task = nb.Task(model, nn.CrossEntropyLoss(), data, (data.x[:20], data.y[:20]))
    return nb.TrainingCoordinator(
        task,
        run_dir=folder,
        epochs=epochs,
        batch_size=4,
        accumulation=3,
        lr=0.02,
        schedule="onecycle",
        ema_decay=0.9,
        save_every_steps=2,
        save_every_epochs=1,
        log_every_steps=1,
        preflight="skip",
        panel="off",
    ).train()


class Deadline:
    """Counts changes to the checkpoints' folder; kills before the ``die_at``-th."""

    def __init__(self, die_at: int | None) -> None:
        self.count = 0
        self._die_at = die_at
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES or not _is_checkpoint(event, args):
            return
        self.count += 1
        if self.count == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _is_checkpoint(event: str, args: tuple[Any, ...]) -> bool:
    is_in_tree = event in ("os.remove", "os.rmdir") and args[-1] != -1  # by dir_fd
    return is_in_tree or "checkpoints" in str(args[0])


def serve() -> None:
    """Fork a training for each request."""
    with tempfile.TemporaryDirectory() as folder:
        train(f"{folder}/warm", epochs=1)  # what is imported late is here from now on
    requests = open(0, "rb", buffering=0)  # noqa: SIM115 (standard input)
    answer("ready")
    for line in iter(requests.readline, b""):
        if line == b"kill\n":
            continue  # it came too late: that training had ended
        pid = os.fork()
        if pid == 0:
            _work(json.loads(line))
        answer("started")
        answer(_wait(pid, requests))


def answer(line: object) -> None:
    """One line to whoever asked."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _wait(pid: int, requests: Any) -> int:
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if select.select([requests], [], [], 0.001)[0]:
            if requests.readline():
                os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(request: dict[str, Any]) -> None:
    """Train in this fork and leave, without what an interpreter does at its end."""
    folder = Path(request["folder"])
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        deadline = Deadline(request.get("die_at"))
        train(str(folder))
        Path(f"{folder}.count").write_text(str(deadline.count))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "serve":
        serve()
    else:
        train(sys.argv[2])
