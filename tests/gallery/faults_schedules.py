"""Faults in how the learning rate moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedules

from gallery.case import Program, fault
from gallery.data_recorded import (
    LETTERS,
    accuracy,
    blobs,
    mlp,
    pictures_task,
    sentences,
)
from nbutils.data.task import Task

EPOCHS = 6


@fault(
    "images",
    "OneCycle is planned for fewer steps than the run has, which ends in an error",
    ("total_steps", "onecycle", "schedule", "steps"),
    seeds=("A: OneCycle ValueError at step 33 of 40",),
)
def one_cycle_too_short(is_faulty: bool) -> Program:
    # ValueError against val acc 1.00
    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        batches = 600 // 32 if is_faulty else -(-600 // 32)
        total = batches * EPOCHS
        return schedules.OneCycleLR(optimizer, max_lr=5e-3, total_steps=total)

    return Program(pictures_task(make_schedule=make_schedule), {"epochs": EPOCHS})


@fault(
    "images",
    "the cosine has as many steps as the run has epochs, and swings up and down",
    ("schedule", "t_max", "learning rate"),
)
def cosine_of_epochs(is_faulty: bool) -> Program:
    # val acc 0.72 against 1.00
    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        steps = EPOCHS if is_faulty else planned_steps
        return schedules.CosineAnnealingLR(optimizer, T_max=steps)

    def make_optimizer(model: nn.Module) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)

    task = pictures_task(make_schedule=make_schedule, make_optimizer=make_optimizer)
    return Program(task, {"epochs": EPOCHS})


@fault(
    "images",
    "the warm-up counts epochs where steps are given, and the rate stays at 0",
    ("schedule", "learning rate"),
    seeds=("D: LambdaLR warm-up starts at 0",),
)
def warmup_stays_at_zero(is_faulty: bool) -> Program:
    # val acc 0.13 against 0.95
    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        def factor(step: int) -> float:
            warm = 20
            return float(step // planned_steps) if is_faulty else min(1, step / warm)

        return schedules.LambdaLR(optimizer, factor)

    return Program(pictures_task(make_schedule=make_schedule), {"epochs": EPOCHS})


@fault(
    "images",
    "a rate that was to fall by ten in each epoch falls by ten in each step",
    ("schedule", "learning rate", "vanish"),
)
def falls_in_each_step(is_faulty: bool) -> Program:
    # val acc 0.15 against 0.85
    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        size = 1 if is_faulty else planned_steps // 2
        return schedules.StepLR(optimizer, step_size=size, gamma=0.1)

    return Program(pictures_task(make_schedule=make_schedule), {"epochs": EPOCHS})


@fault(
    "images",
    "the learning rate grows by a tenth in each step",
    ("schedule", "learning rate", "grow", "explo"),
)
def rate_explodes(is_faulty: bool) -> Program:
    # val acc 0.15 against 0.90
    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        gamma = 1.1 if is_faulty else 0.99
        return schedules.ExponentialLR(optimizer, gamma=gamma)

    return Program(pictures_task(make_schedule=make_schedule), {"epochs": EPOCHS})


@fault(
    "tabular",
    "the schedule is planned for a tenth of the run, and ends at 0",
    ("schedule", "learning rate", "zero", "early"),
)
def schedule_ends_early(is_faulty: bool) -> Program:
    # val acc 0.70 against 1.00
    torch.manual_seed(0)

    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        steps = planned_steps // 10 if is_faulty else planned_steps
        return schedules.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    task = Task(
        mlp(8, 5),
        nn.CrossEntropyLoss(),
        blobs(600),
        blobs(200, seed=1),
        metrics={"acc": accuracy},
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 10})


@fault(
    "text",
    "the peak of the schedule is ten times the rate that was meant",
    ("learning rate", "schedule", "peak"),
    seeds=("V: max_lr = 10 x configured LR",),
)
def peak_is_ten_times(is_faulty: bool) -> Program:
    # val acc 0.31 against 0.89
    torch.manual_seed(0)
    text, held_out = sentences(600, 13), sentences(150, 13, seed=1)
    block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.Sequential(
        nn.Embedding(LETTERS, 32),
        nn.TransformerEncoder(block, 3, enable_nested_tensor=False),
        nn.Flatten(),
        nn.Linear(32 * 12, LETTERS),
    )

    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        peak = optimizer.param_groups[0]["lr"] * (10 if is_faulty else 1)
        return schedules.OneCycleLR(optimizer, peak, total_steps=planned_steps)

    task = Task(
        model,
        nn.CrossEntropyLoss(),
        (text[:, :-1], text[:, -1]),
        (held_out[:, :-1], held_out[:, -1]),
        metrics={"acc": accuracy},
        make_optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 5})


@fault(
    "images",
    "the schedule moves an optimizer of its own, and the one that trains stays",
    ("schedule", "another optimizer", "learning rate"),
)
def schedule_of_another_optimizer(is_faulty: bool) -> Program:
    # val acc 0.19 against 1.00
    def make_optimizer(model: nn.Module) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        if is_faulty:
            optimizer = make_optimizer(nn.Linear(1, 1))
        return schedules.OneCycleLR(optimizer, 0.1, total_steps=planned_steps)

    task = pictures_task(make_schedule=make_schedule, make_optimizer=make_optimizer)
    return Program(task, {"epochs": EPOCHS})


@fault(
    "images",
    "a schedule for losses that stall is told to expect rising ones, without patience",
    ("plateau", "learning rate"),
)
def plateau_expects_rising(is_faulty: bool) -> Program:
    # val acc 0.68 against 0.95
    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        if is_faulty:
            return schedules.ReduceLROnPlateau(optimizer, mode="max", patience=0)
        return schedules.ConstantLR(optimizer, 1.0)

    return Program(pictures_task(make_schedule=make_schedule), {"epochs": EPOCHS})
