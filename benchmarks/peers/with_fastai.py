"""fastai's Learner with its callbacks; ``load`` and ``start_epoch`` to resume."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision  # noqa: F401 registers its order
from fastai.callback.schedule import ParamScheduler, SchedLin
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.callback.tracker import SaveModelCallback, TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from fastai.torch_core import set_seed
from torch.utils.data import Subset

from benchmarks.peers.job import Job, Outcome, Peer

__all__ = ["PEER"]


class _Watcher(Callback):
    run_valid = False

    def __init__(self, job: Job) -> None:
        self.job = job

    def after_batch(self) -> None:
        if self.job.on_step:
            self.job.on_step()

    def after_fit(self) -> None:
        if self.job.on_end:
            self.job.on_end()


def fit(job: Job) -> Outcome:
    """Train, from the newest epoch's file if the job resumes."""
    set_seed(job.seed, reproducible=True)
    learn = _learner(job)
    start = 0
    if job.resume:
        names = [path.stem for path in (job.folder / "models").glob("model_*.pth")]
        last = max(int(re.sub(r"\D", "", name)) for name in names)
        learn.load(f"model_{last}")
        start = last + 1
    learn.fit(job.epochs, lr=None if job.schedule else job.lr, start_epoch=start)
    values = learn.recorder.values
    names = list(learn.recorder.metric_names)[1:]
    rows = [dict(zip(names, map(_number, row), strict=False)) for row in values]
    losses = [{"loss": float(loss)} for loss in learn.recorder.losses]
    return Outcome(
        [row.get("train_mean", row.get("train_loss", math.nan)) for row in rows],
        [row["valid_loss"] for row in rows if "valid_loss" in row],
        [*losses, *rows],
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _learner(job: Job) -> Any:
    val = job.val
    if val is None:  # a Learner always validates
        val = Subset(job.train, range(job.batch_size))
    loaders = [
        DataLoader(
            data,
            bs=job.batch_size,
            shuffle=job.shuffle and is_train,
            drop_last=False,
            create_batch=job.collate,
            num_workers=0,
        )
        for data, is_train in ((job.train, True), (val, False))
    ]

    def mean(outputs: Any, targets: Any) -> Any:
        return job.loss(outputs, targets)

    learn = Learner(
        DataLoaders(*loaders, device=torch.device("cpu")),
        job.model,
        loss_func=lambda outputs, targets: job.loss(outputs, targets),
        opt_func=partial(OptimWrapper, opt=job.optimizer),
        lr=job.lr,
        cbs=_callbacks(job),
        path=job.folder,
        metrics=[mean] if job.variant == "train_metrics" else None,
    )
    learn.recorder.train_metrics = job.variant == "train_metrics"
    return learn


def _callbacks(job: Job) -> list[Any]:
    found: list[Any] = [_Watcher(job)]
    if job.accumulation > 1:
        found.append(GradientAccumulation(job.accumulation * job.batch_size))
    if job.save_epochs:
        found.append(SaveModelCallback(every_epoch=True, with_opt=True))
    if job.schedule:
        found.append(ParamScheduler({"lr": SchedLin(job.lr, 0.0)}))
    if job.variant == "TerminateOnNaNCallback":
        found.append(TerminateOnNaNCallback())
    if job.tensorboard:
        found.append(TensorBoardCallback(job.folder / "logs", log_preds=False))
    return found


_EPOCHS = "SaveModelCallback saves whole epochs; nothing continues inside one"
_NAMED = "the user names the file to load"

PEER = Peer(
    name="fastai",
    packages=("fastai",),
    files="models/*.pth",
    options={"2a": ("TerminateOnNaNCallback",), "8a": ("train_metrics",)},
    absent={
        "3a": _EPOCHS,
        "3b": _EPOCHS,
        "3d": _EPOCHS,
        "4a": _NAMED,
        "4b": _NAMED,
        "6": "nothing of the kind",
        "7b": "fp16 needs an accelerator here",
    },
    notes={
        "3c": "scripts start with set_seed; the saved file has no generator.",
        "5a": "KeyboardInterrupt passes through; after_fit is not called.",
        "8a": "the train_loss of its table is an exponential average, by design.",
    },
    fit=fit,
)
