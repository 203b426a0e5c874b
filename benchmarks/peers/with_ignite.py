"""Ignite's supervised trainer and evaluator, with ``Checkpoint``."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import (
    DeterministicEngine,
    Events,
    create_supervised_evaluator,
    create_supervised_trainer,
    supervised_training_step,
)
from ignite.handlers import (
    Checkpoint,
    DiskSaver,
    PiecewiseLinear,
    TerminateOnNan,
)
from ignite.handlers.tensorboard_logger import TensorboardLogger
from ignite.metrics import Loss
from ignite.utils import manual_seed
from torch.utils.data import DataLoader

from benchmarks.peers.job import Job, Outcome, Peer

__all__ = ["PEER"]


def fit(job: Job) -> Outcome:
    """Train, from the newest checkpoint's file if the job resumes."""
    manual_seed(job.seed)
    optimizer = job.optimizer(job.model.parameters(), lr=job.lr)
    trainer = _trainer(job, optimizer)
    outcome = Outcome()
    data = DataLoader(
        job.train,
        job.batch_size,
        shuffle=job.shuffle,
        collate_fn=job.collate,
        num_workers=2 if job.variant.endswith("num_workers=2") else 0,
    )
    _report(job, trainer, outcome)
    _watch(job, trainer, optimizer, len(data))
    to_save = {"trainer": trainer, "model": job.model, "optimizer": optimizer}
    _save(job, trainer, to_save)
    if job.resume:
        files = (job.folder / "checkpoints").glob("*.pt")
        newest = max(files, key=lambda path: int(path.stem.split("_")[-1]))
        is_safe = not job.variant.startswith("Det")  # it saves NumPy's state too
        state = torch.load(newest, weights_only=is_safe)
        Checkpoint.load_objects(to_save, state)
    trainer.run(data, max_epochs=job.epochs)
    return outcome


def _trainer(job: Job, optimizer: Any) -> Any:
    more = {"gradient_accumulation_steps": job.accumulation}

    def shown(_x: Any, y: Any, y_pred: Any, loss: Any) -> Any:
        return y_pred.detach(), y, loss.item()

    if job.variant.startswith("DeterministicEngine"):
        step = supervised_training_step(
            job.model, optimizer, job.loss, output_transform=shown, **more
        )
        return DeterministicEngine(step)
    if job.variant == "TerminateOnNan":
        return create_supervised_trainer(job.model, optimizer, job.loss, **more)
    return create_supervised_trainer(
        job.model, optimizer, job.loss, output_transform=shown, **more
    )


def _report(job: Job, trainer: Any, outcome: Outcome) -> None:
    """Metrics as in the documentation: ``Loss`` on trainer and evaluator."""
    if job.variant == "TerminateOnNan":
        return
    Loss(job.loss, output_transform=lambda out: out[:2]).attach(trainer, "loss")

    @trainer.on(Events.ITERATION_COMPLETED)
    def log(engine: Any) -> None:
        outcome.log.append({"loss": engine.state.output[2]})

    @trainer.on(Events.EPOCH_COMPLETED)
    def end_epoch(engine: Any) -> None:
        outcome.train_losses.append(engine.state.metrics["loss"])
        if job.val is not None:
            evaluator = create_supervised_evaluator(job.model, {"loss": Loss(job.loss)})
            data = DataLoader(job.val, job.batch_size, collate_fn=job.collate)
            outcome.val_losses.append(evaluator.run(data).metrics["loss"])


def _watch(job: Job, trainer: Any, optimizer: Any, num_batches: int) -> None:
    if job.on_step:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, job.on_step)
    if job.on_end:
        trainer.add_event_handler(Events.COMPLETED, job.on_end)
        if job.variant == "EXCEPTION_RAISED":
            trainer.add_event_handler(
                Events.EXCEPTION_RAISED, lambda _e, _error: job.on_end()
            )
    if job.variant == "TerminateOnNan":
        trainer.add_event_handler(Events.ITERATION_COMPLETED, TerminateOnNan())
    if job.schedule:
        total = job.epochs * num_batches
        schedule = PiecewiseLinear(optimizer, "lr", [(0, job.lr), (total, 0.0)])
        trainer.add_event_handler(Events.ITERATION_STARTED, schedule)
    if job.tensorboard:
        logger = TensorboardLogger(log_dir=str(job.folder / "logs"))
        logger.attach_output_handler(
            trainer,
            event_name=Events.ITERATION_COMPLETED,
            tag="training",
            output_transform=lambda out: {"loss": out[2]},
        )


def _save(job: Job, trainer: Any, to_save: dict[str, Any]) -> None:
    if not (job.save_steps or job.save_epochs):
        return
    saver = Checkpoint(
        to_save,
        DiskSaver(str(job.folder / "checkpoints"), require_empty=False),
        n_saved=3,
        global_step_transform=lambda engine, _event: engine.state.iteration,
    )
    when: Any = Events.EPOCH_COMPLETED
    if job.save_steps:
        when = Events.ITERATION_COMPLETED(every=job.save_steps)
    trainer.add_event_handler(when, saver)
    if job.variant == "EXCEPTION_RAISED":
        trainer.add_event_handler(
            Events.EXCEPTION_RAISED, lambda _e, _error: saver(trainer)
        )


_HELPER = "with create_supervised_trainer; a step of the user's own is free to differ."
_RESUME = ("DeterministicEngine", "DeterministicEngine, num_workers=2")

PEER = Peer(
    name="Ignite",
    packages=("pytorch-ignite",),
    files="checkpoints/*.pt",
    options={
        "2a": ("TerminateOnNan",),
        "3a": _RESUME,
        "3b": _RESUME,
        "3c": _RESUME,
        "3d": _RESUME,
        "5a": ("EXCEPTION_RAISED",),
    },
    absent={
        "4b": "the user names the file to load",
        "6": "nothing of the kind",
        "7b": "its AMP step is written for CUDA",
    },
    notes={
        "1a": _HELPER,
        "1b": _HELPER,
        "2a": "TerminateOnNan looks after the update.",
        "3a": "DeterministicEngine promises the same data from the start of an epoch, "
        "with workers.",
        "5a": "a handler of EXCEPTION_RAISED is counted as its end hook.",
    },
    fit=fit,
)
