"""The Trainer of Hugging Face, with ``resume_from_checkpoint=True``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers.job import Job, Outcome, Peer

__all__ = ["PEER"]


class _Model(nn.Module):
    """Gives the loss beside the outputs, as the Trainer expects."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.inner = job.model
        self.loss = job.loss

    def forward(self, x: Any, labels: Any = None) -> dict[str, Any]:
        """Loss and scores."""
        logits = self.inner(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": self.loss(logits, labels), "logits": logits}


class _Dicts(Dataset[Any]):
    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        x, y = self.data[index]
        return {"x": x, "labels": y}


class _Watcher(TrainerCallback):
    def __init__(self, job: Job, outcome: Outcome) -> None:
        self.job, self.outcome = job, outcome

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        if self.job.on_step:
            self.job.on_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.job.on_step:
            self.job.on_step()

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.outcome.log.append(dict(more.get("logs") or {}))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self.job.on_end:
            self.job.on_end()


def fit(job: Job) -> Outcome:
    """Train, from the newest checkpoint if the job resumes."""
    outcome = Outcome()
    torch.manual_seed(job.seed)
    model = _Model(job)
    trainer = Trainer(
        model=model,
        args=_arguments(job),
        train_dataset=_Dicts(job.train),
        eval_dataset=None if job.val is None else _Dicts(job.val),
        data_collator=_collator(job),
        optimizers=(job.optimizer(model.parameters(), lr=job.lr), None),
        callbacks=[_Watcher(job, outcome)],
        compute_loss_func=_token_mean if job.variant == "compute_loss_func" else None,
    )
    trainer.train(resume_from_checkpoint=True if job.resume else None)
    for row in outcome.log:
        if "loss" in row:
            outcome.train_losses.append(row["loss"])
        if "eval_loss" in row:
            outcome.val_losses.append(row["eval_loss"])
    return outcome


def _arguments(job: Job) -> TrainingArguments:
    save = "steps" if job.save_steps else "epoch" if job.save_epochs else "no"
    return TrainingArguments(
        output_dir=str(job.folder / "out"),
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=job.batch_size,
        gradient_accumulation_steps=job.accumulation,
        learning_rate=job.lr,
        lr_scheduler_type=job.schedule or "constant",
        max_grad_norm=0.0,
        train_sampling_strategy="random" if job.shuffle else "sequential",
        eval_strategy="no" if job.val is None else "epoch",
        save_strategy=save,
        save_steps=job.save_steps or 500,
        logging_strategy="epoch" if job.val is not None else "steps",
        logging_steps=job.log_every,
        logging_nan_inf_filter=job.variant != "logging_nan_inf_filter=False",
        debug="underflow_overflow" if job.variant.startswith("debug") else "",
        enable_jit_checkpoint=job.variant == "enable_jit_checkpoint=True",
        auto_find_batch_size=job.variant == "auto_find_batch_size=True",
        report_to=["tensorboard"] if job.tensorboard else [],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
        seed=job.seed,
    )


def _collator(job: Job) -> Any:
    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        pairs = [(row["x"], row["labels"]) for row in rows]
        if job.collate is not None:
            x, labels = job.collate(pairs)
        else:
            x, labels = (torch.stack(list(c)) for c in zip(*pairs, strict=True))
        return {"x": x, "labels": labels}

    return collate


def _token_mean(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The documented way to count: a sum over the number of items in the window."""
    logits = outputs["logits"].flatten(0, 1)
    total = nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum")
    return total / num_items_in_batch


PEER = Peer(
    name="HF Trainer",
    packages=("transformers", "accelerate"),
    files="out/checkpoint-*/*",
    options={
        "1b": ("compute_loss_func",),
        "2a": ('debug="underflow_overflow"',),
        "2b": ("logging_nan_inf_filter=False",),
        "5a": ("enable_jit_checkpoint=True",),
        "6": ("auto_find_batch_size=True",),
    },
    absent={"7b": "fp16 needs an accelerator here"},
    notes={
        "2a": 'debug="underflow_overflow" is a debugging mode and ends the run.',
        "5a": "enable_jit_checkpoint listens to SIGTERM, not to Ctrl-C.",
        "6": "auto_find_batch_size starts the run again with fewer samples per step; "
        "the effective batch is not promised to stay.",
        "8a": "the loss of an epoch is the mean over its optimizer steps.",
    },
    fit=fit,
)
