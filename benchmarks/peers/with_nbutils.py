"""nbutils, through its public names."""

from __future__ import annotations

import math
from typing import Any

import nbutils as nb
from benchmarks.peers.job import Job, Outcome, Peer
from nbutils.monitor.events import read_events

__all__ = ["PEER"]


class _Watcher(nb.Callback):
    """The user's callback."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def on_step_end(self, state: Any) -> None:
        if self._job.on_step:
            self._job.on_step()

    def on_fit_end(self, state: Any) -> None:
        if self._job.on_end:
            self._job.on_end()


def fit(job: Job) -> Outcome:
    """Train; the same call resumes what is in ``job.folder``."""
    kinds: dict[str, Any] = {}
    saves: dict[str, Any] = {"save_every_steps": job.save_steps}
    if job.save_epochs:  # asked for: else saves keep below a share of the time
        saves["save_every_epochs"] = 1
    if job.count is not None:
        kinds["count_targets"] = lambda batch: job.count(batch[1])
    task = nb.Task(
        job.model,
        lambda outputs, batch: job.loss(outputs, batch[1]),
        job.train,
        job.val,
        collate=job.collate,
        make_optimizer=lambda model: job.optimizer(model.parameters(), lr=job.lr),
        **kinds,
    )
    run_dir = job.folder / "run"
    result = nb.TrainingCoordinator(
        task,
        run_dir=run_dir,
        callbacks=[_Watcher(job)],
        epochs=job.epochs,
        batch_size=job.batch_size,
        accumulation=job.accumulation,
        shuffle=job.shuffle,
        schedule=job.schedule or "constant",
        precision="fp16" if job.fp16 else "fp32",
        log_every_steps=job.log_every,
        seed=job.seed,
        device="cpu",
        clip_norm=None,
        preflight="skip",
        panel="off",
        tracker="tensorboard" if job.tensorboard else "none",
        **saves,
    ).train()
    log = [dict(event) for event in read_events(run_dir / "events.jsonl")]
    losses = {
        name: [_number(row[name]) for row in result.rows if name in row]
        for name in ("train_loss", "val_loss")
    }
    return Outcome(losses["train_loss"], losses["val_loss"], log)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


PEER = Peer(
    name="nbutils",
    packages=("nbutils",),
    files="run/checkpoints/step-*/*",
    fit=fit,
)
