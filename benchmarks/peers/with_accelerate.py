"""Accelerate: the user's loop around ``accumulate``, ``save_state``, ``load_state``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    ProjectConfiguration,
    find_executable_batch_size,
    set_seed,
)
from torch.utils.data import DataLoader

from benchmarks.peers.job import Job, Outcome, Peer

__all__ = ["PEER"]


def fit(job: Job) -> Outcome:
    """Train; with the decorator, again at half the batch after an OOM."""
    if job.variant != "find_executable_batch_size":
        return _train(job, job.batch_size)
    first = {k: v.clone() for k, v in job.model.state_dict().items()}

    @find_executable_batch_size(starting_batch_size=job.batch_size)
    def run(batch_size: int) -> Outcome:
        job.model.load_state_dict(first)  # the guide makes the model anew in here
        return _train(job, batch_size)

    return run()


def _train(job: Job, batch_size: int) -> Outcome:
    accumulation = job.accumulation * (job.batch_size // batch_size)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulation,
        project_config=ProjectConfiguration(
            project_dir=str(job.folder), automatic_checkpoint_naming=True
        ),
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler="use_seedable_sampler" in job.variant,
            use_stateful_dataloader="use_stateful_dataloader" in job.variant,
        ),
        log_with="tensorboard" if job.tensorboard else None,
    )
    if job.tensorboard:
        accelerator.init_trackers("run")
    set_seed(job.seed)
    optimizer = job.optimizer(job.model.parameters(), lr=job.lr)
    data = DataLoader(
        job.train,
        batch_size,
        shuffle=job.shuffle,
        collate_fn=job.collate,
    )
    steps = max(1, len(data) * job.epochs // accumulation)  # as in the examples
    ends = 0.0 if job.schedule else 1.0
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, ends, steps)
    model, optimizer, data, schedule = accelerator.prepare(
        job.model, optimizer, data, schedule
    )
    position = _Position()
    if job.resume:
        accelerator.load_state()
        kept = (job.folder / "checkpoints").iterdir()
        last = max(int(path.name.split("_")[-1]) for path in kept)
        accelerator.project_configuration.iteration = last + 1
        position = _Position.after(last, job, len(data))
    outcome = Outcome()
    loop = _counted_epoch if job.variant == "items in the window" else _epoch
    for epoch in range(position.epoch, job.epochs):
        data.set_epoch(epoch)
        loop(job, accelerator, (model, optimizer, data, schedule), position)
        position.epoch, position.batch = epoch + 1, 0
        if job.save_epochs:
            accelerator.save_state()
    if job.on_end:
        job.on_end()
    return outcome


@dataclass
class _Position:
    """Where the loop stands; as in the examples, the folder's name tells."""

    epoch: int = 0
    batch: int = 0
    step: int = 0

    @classmethod
    def after(cls, save: int, job: Job, num_batches: int) -> _Position:
        """Where save number ``save`` was made."""
        step = (save + 1) * (job.save_steps or num_batches)
        return cls(step // num_batches, step % num_batches, step)


def _epoch(job: Job, accelerator: Any, parts: Any, position: _Position) -> None:
    """The loop of the checkpointing guide."""
    model, optimizer, data, schedule = parts
    rest = data
    is_stateful = "use_stateful_dataloader" in job.variant
    if position.batch and not is_stateful:
        rest = accelerator.skip_first_batches(data, position.batch)
    model.train()
    for x, y in rest:
        with accelerator.accumulate(model):
            loss = job.loss(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        position.batch += 1
        position.step += 1
        if job.tensorboard:
            accelerator.log({"loss": float(loss)}, step=position.step)
        if job.save_steps and position.step % job.save_steps == 0:
            accelerator.save_state()
        if job.on_step:
            job.on_step()


def _counted_epoch(job: Job, accelerator: Any, parts: Any, position: Any) -> None:
    """The loop of the guide on gradient accumulation with variable sizes."""
    model, optimizer, data, schedule = parts
    size = accelerator.gradient_accumulation_steps
    batches = iter(data)
    model.train()
    while window := [b for _, b in zip(range(size), batches, strict=False)]:
        count = job.count or len
        num_items = sum(count(y) for _, y in window)
        for x, y in window:
            loss = job.loss(model(x), y) * count(y) * size / num_items
            accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


_RESUME = (
    "use_seedable_sampler",
    "use_stateful_dataloader",
    "use_seedable_sampler and use_stateful_dataloader",
)
_OWN = "the loop is the user's own"

PEER = Peer(
    name="Accelerate",
    packages=("accelerate", "torchdata"),
    files="checkpoints/checkpoint_*/*",
    options={
        "1a": ("items in the window",),
        "1b": ("items in the window",),
        "3a": _RESUME,
        "3b": _RESUME,
        "3c": _RESUME,
        "3d": _RESUME,
        "6": ("find_executable_batch_size",),
    },
    absent={
        "2a": _OWN,
        "2b": _OWN,
        "5a": _OWN,
        "7b": "fp16 needs an accelerator here",
        "8a": _OWN,
        "8b": _OWN,
        "8c": _OWN,
        "10a": "accelerator.log is the user's own call; it raises",
        "10b": _OWN,
    },
    notes={
        "1a": "the guide on samples of variable size counts the items of each window.",
        "3a": "the order is right with use_seedable_sampler; load_state restores the "
        "generator, then the loader draws from it.",
        "4c": "objects given to register_for_checkpointing are always loaded with "
        "weights_only=False; none is used here.",
        "6": "the decorator starts the user's function again; the documented example "
        "keeps the effective batch by accumulation.",
    },
    fit=fit,
)
