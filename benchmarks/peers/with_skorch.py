"""skorch's NeuralNet, with ``Checkpoint`` and ``LoadInitState``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import (
    Callback,
    Checkpoint,
    LoadInitState,
    LRScheduler,
    TensorBoard,
    TrainEndCheckpoint,
)
from skorch.helper import predefined_split
from torch import nn

from benchmarks.peers.job import Job, Outcome, Peer

__all__ = ["PEER"]


class _Loss(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Any, targets: Any) -> Any:
        """The job's loss."""
        return self.function(outputs, targets)


class _Accumulating(NeuralNet):
    """Gradient accumulation as in skorch's FAQ."""

    def __init__(self, *args: Any, acc_steps: int = 2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.acc_steps = acc_steps

    def get_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_loss(*args, **kwargs) / self.acc_steps

    def train_step(self, batch: Any, **fit_params: Any) -> Any:
        num_batches = len(self.history[-1, "batches"])
        step = self.train_step_single(batch, **fit_params)
        if num_batches % self.acc_steps == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


class _Watcher(Callback):
    def __init__(self, job: Job) -> None:
        self.job = job

    def on_batch_end(self, net: Any, training: bool = False, **_: Any) -> None:
        if training and self.job.on_step:
            self.job.on_step()

    def on_train_end(self, net: Any, **_: Any) -> None:
        if self.job.on_end:
            self.job.on_end()


def fit(job: Job) -> Outcome:
    """Train, from the saved state if the job resumes."""
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)
    more = {} if job.accumulation == 1 else {"acc_steps": job.accumulation}
    kind = NeuralNet if job.accumulation == 1 else _Accumulating
    if job.collate is not None:
        more["iterator_train__collate_fn"] = job.collate
        more["iterator_valid__collate_fn"] = job.collate
    net = kind(
        job.model,
        criterion=_Loss(job.loss),
        optimizer=job.optimizer,
        lr=job.lr,
        max_epochs=job.epochs - (_epochs_done(job) if job.resume else 0),
        batch_size=job.batch_size,
        iterator_train__shuffle=job.shuffle,
        train_split=None if job.val is None else predefined_split(job.val),
        callbacks=_callbacks(job),
        device="cpu",
        verbose=0,
        **more,
    )
    net.fit(job.train, y=None)
    rows = net.history.to_list()
    log = [{k: v for k, v in row.items() if k != "batches"} for row in rows]
    return Outcome(
        [row["train_loss"] for row in rows if "train_loss" in row],
        [row["valid_loss"] for row in rows if "valid_loss" in row],
        log,
    )


def _epochs_done(job: Job) -> int:
    """fit() trains max_epochs more than were loaded."""
    path = job.folder / "checkpoint" / "history.json"
    return len(json.loads(path.read_text())) if path.exists() else 0


def _callbacks(job: Job) -> list[Any]:
    found: list[Any] = [_Watcher(job)]
    saver: Any = None
    if job.variant == "TrainEndCheckpoint":
        saver = TrainEndCheckpoint(dirname=str(job.folder / "end"))
    elif job.save_epochs or job.save_steps:
        saver = Checkpoint(monitor=None, dirname=str(job.folder / "checkpoint"))
    if saver is not None:
        found.append(saver)
        if job.resume:
            found.append(LoadInitState(saver))
    if job.schedule:
        steps = job.epochs * -(-len(job.train) // job.batch_size)
        policy = torch.optim.lr_scheduler.LinearLR
        found.append(
            LRScheduler(
                policy,
                step_every="batch",
                start_factor=1.0,
                end_factor=0.0,
                total_iters=steps,
            )
        )
    if job.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        found.append(TensorBoard(SummaryWriter(str(job.folder / "logs"))))
    return found


_EPOCHS = "Checkpoint saves whole epochs; nothing continues inside one"

PEER = Peer(
    name="skorch",
    packages=("skorch",),
    files="checkpoint/*",
    options={
        "5a": ("TrainEndCheckpoint",),
    },
    absent={
        "3a": _EPOCHS,
        "3b": _EPOCHS,
        "3d": _EPOCHS,
        "4b": "it keeps one checkpoint, written over in place; see 4a",
        "6": "nothing of the kind",
        "7b": "AMP comes with Accelerate, whose fp16 needs an accelerator here",
    },
    notes={
        "1a": "accumulation is the recipe of its FAQ.",
        "1b": "accumulation is the recipe of its FAQ.",
        "3c": "scripts start with manual_seed; the checkpoint has no generator.",
    },
    fit=fit,
)
