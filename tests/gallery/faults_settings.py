"""Faults in the settings of a run, around programs that are sound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import (
    accuracy,
    blobs,
    figures,
    mlp,
    pictures_task,
)
from nbutils.data.task import Task


def rows_task(train: int = 600, val: int = 200) -> Task:
    """Five kinds of measurements, told by a small network."""
    torch.manual_seed(0)
    return Task(
        mlp(8, 5),
        nn.CrossEntropyLoss(),
        blobs(train),
        blobs(val, seed=1),
        metrics={"acc": accuracy},
    )


class Autoencoder(nn.Module):
    """Code of eight numbers for a picture, drawn around its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), mlp(768, 16))
        self.decode = mlp(8, 768)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(images).chunk(2, 1)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(code).view_as(images), mean, log_variance


def autoencoder_task(loss_weights: dict[str, float]) -> Task:
    """A variational autoencoder with two terms of its loss."""
    torch.manual_seed(0)

    def loss(outputs: Any, batch: Any) -> dict[str, Tensor]:
        guess, mean, log_variance = outputs
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return {"image": nn.functional.mse_loss(guess, batch[0]), "kl": kl}

    def blur(outputs: Any, batch: Any) -> float:
        return float((outputs[0] - batch[0]).abs().mean())

    return Task(
        Autoencoder(),
        loss,
        (figures(600)[0],),
        (figures(150, seed=1)[0],),
        metrics={"blur": blur},
        loss_weights=loss_weights,
    )


@fault(
    "images",
    "the best weights are those of the lowest accuracy",
    ("mode is", "mode=", "'max'", "higher"),
)
def accuracy_with_mode_min(is_faulty: bool) -> Program:
    # best kept: val acc 0.16 against 0.97
    mode = "min" if is_faulty else "max"
    return Program(pictures_task(), {"epochs": 6, "monitor": "val_acc", "mode": mode})


@fault(
    "images",
    "the lowest accuracy is the best, so that patience ends a run that improves",
    ("mode is", "mode=", "'max'", "higher"),
)
def patience_on_falling_accuracy(is_faulty: bool) -> Program:
    # stops after 3 epochs at val acc 0.81, against 0.95
    settings = {"epochs": 10, "patience": 2, "monitor": "val_acc"}
    return Program(pictures_task(), {**settings, "mode": "min" if is_faulty else "max"})


@fault(
    "images",
    "the target is 96, and the accuracy is between 0 and 1",
    ("target", "reach", "percent"),
    seeds=("A: target 0.96",),
)
def target_in_percent(is_faulty: bool) -> Program:
    # 380 steps against 76, both beyond the target
    target = 90.0 if is_faulty else 0.9
    settings = {"epochs": 20, "monitor": "val_acc", "mode": "max", "target": target}
    return Program(pictures_task(), settings)


@fault(
    "images",
    "the target is meant for the accuracy, and compared with a loss that is below it",
    ("target", "at once", "reached"),
)
def target_reached_at_once(is_faulty: bool) -> Program:
    # ends at val acc 0.16 against 0.95
    settings: dict[str, Any] = {"epochs": 8, "target": 2.0 if is_faulty else 0.45}
    return Program(pictures_task(), settings)


@fault(
    "images",
    "the patience is one evaluation, during a warm-up of several epochs",
    ("patience", "warm"),
)
def patience_within_warmup(is_faulty: bool) -> Program:
    # stops at val acc 0.34 against 0.99
    settings: dict[str, Any] = {
        "epochs": 14,
        "monitor": "val_acc",
        "mode": "max",
        "warmup_steps": 150,
        "schedule": "cosine",
        "patience": 1 if is_faulty else 10,
    }
    return Program(pictures_task(), settings)


@fault(
    "images",
    "what is evaluated is an average over far more steps than the run has",
    ("ema", "decay", "average"),
    seeds=("C: ema 0.9999",),
    stage="engine",
)
def average_far_too_slow(is_faulty: bool) -> Program:
    # plain loop without a ramp: val acc 0.25 against 0.97
    decay = 0.9999 if is_faulty else 0.9
    return Program(pictures_task(), {"epochs": 6, "ema_decay": decay})


@fault(
    "tabular",
    "more batches are accumulated than an epoch has",
    ("accumulation", "one step", "1 step", "optimizer step"),
    seeds=("D: one optimizer step per epoch",),
)
def accumulation_over_an_epoch(is_faulty: bool) -> Program:
    # val acc 0.67 against 1.00
    settings = {"epochs": 8, "accumulation": 64 if is_faulty else 2}
    return Program(rows_task(), settings)


@fault(
    "tabular",
    "the batch is larger than the data, so that an epoch is one step",
    ("batch_size", "one step", "1 step", "optimizer step"),
)
def batch_larger_than_data(is_faulty: bool) -> Program:
    # val acc 0.76 against 1.00
    settings = {"epochs": 10, "batch_size": 4096 if is_faulty else 32}
    return Program(rows_task(), settings)


@fault(
    "tabular",
    "the last batch is dropped, and it is the only one",
    ("drop_last", "no batch", "batch_size"),
)
def only_batch_dropped(is_faulty: bool) -> Program:
    # ContractError against val acc 1.00
    settings = {"epochs": 40, "batch_size": 64, "drop_last": is_faulty, "lr": 1e-2}
    return Program(rows_task(train=60), settings)


@fault(
    "images",
    "the warm-up is longer than the run",
    ("warm",),
    seeds=("C: warm-up epochs",),
)
def warmup_longer_than_run(is_faulty: bool) -> Program:
    # ConfigError against val acc 0.84
    steps = 5000 if is_faulty else 20
    return Program(
        pictures_task(), {"epochs": 6, "schedule": "cosine", "warmup_steps": steps}
    )


@fault(
    "tabular",
    "the cosine ends far above the learning rate it starts from",
    ("min_lr", "learning rate", "above"),
)
def end_above_start(is_faulty: bool) -> Program:
    # ConfigError against val acc 1.00
    settings = {"epochs": 8, "schedule": "cosine", "optimizer": "sgd", "lr": 0.05}
    return Program(rows_task(), {**settings, "min_lr": 50.0 if is_faulty else 5e-4})


@fault(
    "images",
    "the weight decay of AdamW was taken from a run with a far smaller learning rate",
    ("decay",),
)
def decay_of_all_weights(is_faulty: bool) -> Program:
    # val acc 0.15 against 0.95
    decay = 200.0 if is_faulty else 0.01
    return Program(pictures_task(), {"epochs": 6, "weight_decay": decay})


@fault(
    "tabular",
    "labels are smoothed until nothing is left of them",
    ("smooth",),
)
def smoothed_away(is_faulty: bool) -> Program:
    # val acc 0.49 against 1.00
    smoothing = 0.99 if is_faulty else 0.05
    return Program(rows_task(), {"epochs": 6, "label_smoothing": smoothing})


@fault(
    "tabular",
    "the gradient is clipped to a norm at which SGD moves nothing",
    ("clip",),
)
def clipped_to_nothing(is_faulty: bool) -> Program:
    # val acc 0.27 against 1.00
    settings = {"epochs": 6, "optimizer": "sgd", "lr": 0.1}
    return Program(rows_task(), {**settings, "clip_norm": 1e-4 if is_faulty else 1.0})


@fault(
    "images",
    "the weight of the term that matters was given to a name that does not exist",
    ("weight", "images"),
    seeds=("D: lam_cov missing",),
)
def weight_of_misspelt_term(is_faulty: bool) -> Program:
    # ContractError against val blur 0.19
    name = "images" if is_faulty else "image"
    task = autoencoder_task({name: 100.0, "kl": 0.01})
    return Program(task, {"epochs": 6})


@fault(
    "images",
    "the weights make the reconstruction a thousandth of the total",
    ("domina", "share", "weight"),
    seeds=("C: loss weights nll 0.3, direction 5.0",),
)
def weights_hide_main_term(is_faulty: bool) -> Program:
    # val image 0.081 against 0.049
    weights = {"image": 1.0, "kl": 100.0} if is_faulty else {"image": 100.0, "kl": 0.01}
    return Program(autoencoder_task(weights), {"epochs": 15})


@fault(
    "images",
    "the weight of a term is negative, so that it is made large",
    ("negative", "weight"),
)
def negative_weight(is_faulty: bool) -> Program:
    # val kl 394000 against 21, val image 0.071 against 0.049
    weights = {"image": 100.0, "kl": -0.1 if is_faulty else 0.01}
    return Program(autoencoder_task(weights), {"epochs": 15})


@fault(
    "images",
    "the phases of the run switch the main term off, and never on",
    ("phase", "weight"),
    seeds=("D: phase schedule and HPO both write weights",),
)
def phase_never_on(is_faulty: bool) -> Program:
    # val image 0.24 against 0.06
    points = [(0.0, 0.0), (1.0, 0.0)] if is_faulty else [(0.0, 0.5), (0.3, 1.0)]
    task = autoencoder_task({"image": 100.0, "kl": 0.01})
    return Program(task, {"epochs": 6, "loss_phases": {"image": points}})


@fault(
    "images",
    "a pattern meant for the backbone gives every parameter a learning rate of 0",
    ("lr_groups", "learning rate", "not move"),
    seeds=("V: name matching",),
)
def pattern_matches_everything(is_faulty: bool) -> Program:
    # val acc 0.13 against 0.91
    pattern = "*" if is_faulty else "0.*"
    return Program(pictures_task(), {"epochs": 6, "lr_groups": {pattern: 0.0}})


@fault(
    "images",
    "the monitored metric has another name than the one that is computed",
    ("monitor", "val_accuracy"),
    seeds=("T: schema drift",),
)
def monitor_of_other_name(is_faulty: bool) -> Program:
    # ConfigError against val acc 0.97
    monitor = "val_accuracy" if is_faulty else "val_acc"
    return Program(pictures_task(), {"epochs": 4, "monitor": monitor, "mode": "max"})
