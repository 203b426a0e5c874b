"""A resume replays nothing: it reads the samples that are left, wherever it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import nbutils as nb

NUM_SAMPLES, BATCH_SIZE = 400, 4


class Counted(Dataset):
    """Samples that know how often they were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read.append(index)
        x = torch.full((3,), float(index % 7))
        return x, x.sum().reshape(1)


class StopAt(nb.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            state.request_stop("enough")


def train(data: Counted, *callbacks: Any) -> nb.TrainResult:
    torch.manual_seed(0)
    task = nb.Task(nn.Linear(3, 1), nn.MSELoss(), data)
    data.read.clear()  # the contract is derived from a few
    return nb.TrainingCoordinator(
        task,
        run_dir="a",
        callbacks=callbacks,
        epochs=1,
        batch_size=BATCH_SIZE,
        preflight="skip",
        panel="off",
    ).train()


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_resume_reads_only_what_is_left_of_the_epoch(share: float) -> None:
    stop = int(share * NUM_SAMPLES / BATCH_SIZE)
    first, second = Counted(), Counted()
    train(first, StopAt(stop))
    assert train(second).steps == NUM_SAMPLES // BATCH_SIZE
    trained = second.read[-(NUM_SAMPLES - stop * BATCH_SIZE) :]
    probes = len(second.read) - len(trained)
    assert probes <= 4  # a first sample is looked at to recognise the task
    done = set(range(NUM_SAMPLES)) - set(trained)
    assert len(done) == stop * BATCH_SIZE  # each of the others once, none twice
    assert done <= set(first.read)
