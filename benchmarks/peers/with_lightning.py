"""Lightning's Trainer, with ``ModelCheckpoint(save_last=True)`` and ``ckpt_path``."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from benchmarks.peers.job import Job, Outcome, Peer

__all__ = ["PEER"]


class _Module(L.LightningModule):
    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = job.model
        self.job = job

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Loss of a batch; logged per step and, weighted, per epoch."""
        x, y = batch
        loss = self.job.loss(self.model(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss of a batch of the validation data."""
        x, y = batch
        self.log("val_loss", self.job.loss(self.model(x), y), batch_size=len(x))

    def configure_optimizers(self) -> Any:
        """Linear to zero over ``estimated_stepping_batches``, as documented."""
        optimizer = self.job.optimizer(self.parameters(), lr=self.job.lr)
        if self.job.schedule is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 0.0, total_iters=self.trainer.estimated_stepping_batches
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class _Watcher(L.Callback):
    def __init__(self, job: Job, outcome: Outcome) -> None:
        self.job, self.outcome = job, outcome

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self.job.keep_log:
            values = {k: float(v) for k, v in trainer.callback_metrics.items()}
            self.outcome.log.append(values)
        if self.job.on_step:
            self.job.on_step()

    def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
        found = trainer.callback_metrics
        self.outcome.train_losses.append(float(found["train_loss_epoch"]))
        if "val_loss" in found:
            self.outcome.val_losses.append(float(found["val_loss"]))

    def on_fit_end(self, *_: Any) -> None:
        if self.job.on_end:
            self.job.on_end()

    def on_exception(self, *_: Any) -> None:
        if self.job.on_end:
            self.job.on_end()


def fit(job: Job) -> Outcome:
    """Train, from ``ckpt_path="last"`` if the job resumes."""
    L.seed_everything(job.seed, verbose=False)
    outcome = Outcome()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=job.epochs,
        accumulate_grad_batches=job.accumulation,
        logger=_logger(job),
        log_every_n_steps=job.log_every,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job.folder,
        enable_checkpointing=bool(_checkpoints(job)),
        callbacks=[_Watcher(job, outcome), *_checkpoints(job)],
        detect_anomaly=job.variant == "detect_anomaly=True",
        plugins=_precision() if job.fp16 else None,
    )
    kind = StatefulDataLoader if job.variant == "StatefulDataLoader" else DataLoader
    train = kind(
        job.train,
        job.batch_size,
        shuffle=job.shuffle,
        collate_fn=job.collate,
    )
    val = None
    if job.val is not None:
        val = DataLoader(job.val, job.batch_size, collate_fn=job.collate)
    more = {"weights_only": True} if job.variant == "weights_only=True" else {}
    trainer.fit(
        _Module(job), train, val, ckpt_path="last" if job.resume else None, **more
    )
    return outcome


def _logger(job: Job) -> Any:
    kind = TensorBoardLogger if job.tensorboard else CSVLogger
    return kind(job.folder / "logs")


def _precision() -> list[Any]:
    return [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]


def _checkpoints(job: Job) -> list[Any]:
    if not (job.save_steps or job.save_epochs):
        return []
    saver = ModelCheckpoint(
        dirpath=job.folder / "checkpoints",
        every_n_train_steps=job.save_steps,
        every_n_epochs=None if job.save_steps else 1,
        save_top_k=-1,
        save_last=True,
        save_on_exception=job.variant == "save_on_exception=True",
    )
    return [saver]


PEER = Peer(
    name="Lightning",
    packages=("lightning", "torchdata"),
    files="checkpoints/last.ckpt",
    options={
        "2a": ("detect_anomaly=True",),
        "3a": ("StatefulDataLoader",),
        "3b": ("StatefulDataLoader",),
        "3c": ("StatefulDataLoader",),
        "3d": ("StatefulDataLoader",),
        "4c": ("weights_only=True",),
        "5a": ("save_on_exception=True",),
    },
    absent={
        "6": "the batch size finder runs before training; nothing recovers in a run",
    },
    notes={
        "1a": "with accumulate_grad_batches; manual optimization is the user's own.",
        "1b": "with accumulate_grad_batches; manual optimization is the user's own.",
        "3c": "scripts start with seed_everything; the checkpoint has no generator.",
        "5a": "on_exception is counted as its end hook; on_fit_end and teardown are "
        "not called. The call ends in SystemExit.",
        "10a": "the text is Lightning's own around the OSError of the writer.",
        "2a": "EarlyStopping(check_finite) looks at the end of an epoch; "
        "detect_anomaly is a debugging mode and ends the run.",
    },
    fit=fit,
)
