"""Faults in optimizers, schedules, accumulation and number formats."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import lr_scheduler as schedules

from gallery.case import Program, fault
from gallery.data_second import (
    accuracy,
    customers,
    cut,
    dense,
    houses,
    picture_net,
    spots,
)
from nbutils.data.task import Task


def groups_task(**options: Any) -> Task:
    """Customers told apart by a small network."""
    torch.manual_seed(0)
    x, y = customers(600)
    train, val = cut(450, x, y)
    return Task(
        dense(8, 64, 3),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
        **options,
    )


@fault(
    "tabular",
    "trainable parameters are a generator that a printed count has used up: the "
    "optimizer gets none",
    (
        "empty",
        "no parameter",
        "optimizer got",
        "parameter list",
        "used up",
        "generator",
    ),
)
def parameters_used_up(is_faulty: bool) -> Program:
    # twin: train loss 1.1351 to 0.3418, val {'loss': 0.4317, 'acc': 0.86}
    # faulty: ValueError: optimizer got an empty parameter list
    def make_optimizer(model: nn.Module) -> Optimizer:
        trainable = (p for p in model.parameters() if p.requires_grad)
        if not is_faulty:
            trainable = list(trainable)
        count = sum(p.numel() for p in trainable)
        print(f"training {count} weights")  # noqa: T201 - as notebooks do
        return Adam(trainable, lr=3e-3)

    return Program(groups_task(make_optimizer=make_optimizer), {"epochs": 15})


@fault(
    "tabular",
    "eps=1 in Adam, a rule for other tasks, where second moments are 1e-6: steps "
    "shrink to a hundredth",
    ("eps", "learning rate", "step size", "too small", "barely", "hardly"),
)
def eps_of_one(is_faulty: bool) -> Program:
    # twin: train loss 1.1351 to 0.389, val {'loss': 0.4712, 'acc': 0.8267}
    # faulty: train loss 1.1351 to 1.0236, says {'loss': 1.0413, 'acc': 0.52}
    # its model on the twin's validation: {'loss': 1.0413, 'acc': 0.52}
    def make_optimizer(model: nn.Module) -> Optimizer:
        return Adam(model.parameters(), lr=3e-3, eps=1.0 if is_faulty else 1e-8)

    return Program(groups_task(make_optimizer=make_optimizer), {"epochs": 12})


@fault(
    "tabular",
    "maximize=True was left from an experiment with rewards: the loss goes up",
    ("maxim", "ascent", "increas", "rises", "wrong direction", "grow", "goes up"),
)
def maximize_left_on(is_faulty: bool) -> Program:
    # twin: train loss 1.1351 to 0.3896, val {'loss': 0.4716, 'acc': 0.82}
    # faulty: train loss 1.1351 to 31.2302, says {'loss': 31.8411, 'acc': 0.12}
    # its model on the twin's validation: {'loss': 31.8411, 'acc': 0.12}
    def make_optimizer(model: nn.Module) -> Optimizer:
        return AdamW(model.parameters(), lr=3e-3, maximize=is_faulty)

    return Program(groups_task(make_optimizer=make_optimizer), {"epochs": 12})


class Lion(Optimizer):
    """Evolved sign momentum."""

    def __init__(self, parameters: Any, lr: float, rebinds: bool) -> None:
        super().__init__(parameters, {"lr": lr})
        self.rebinds = rebinds

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["average"] = torch.zeros_like(p)
                average = state["average"]
                move = (0.9 * average + 0.1 * p.grad).sign()
                average.mul_(0.99).add_(p.grad, alpha=0.01)
                if self.rebinds:
                    p = p - group["lr"] * move
                else:
                    p.sub_(group["lr"] * move)


@fault(
    "tabular",
    "an optimizer of one's own writes p = p - ..., which moves a name and no weight",
    (
        "not move",
        "unchanged",
        "did not change",
        "not change",
        "no parameter",
        "still",
        "moved nothing",
        "stay",
    ),
)
def step_rebinds_a_name(is_faulty: bool) -> Program:
    # twin: train loss 1.1351 to 0.4176, val {'loss': 0.4771, 'acc': 0.8333}
    # faulty: train loss 1.1351 to 1.1199, says {'loss': 1.1296, 'acc': 0.32}
    # its model on the twin's validation: {'loss': 1.1296, 'acc': 0.32}
    task = groups_task(make_optimizer=lambda m: Lion(m.parameters(), 1e-3, is_faulty))
    return Program(task, {"epochs": 15})


@fault(
    "tabular",
    "the function of LambdaLR returns the rate itself, and gets multiplied by the rate "
    "once more",
    ("learning rate", "schedule", "lambda", "factor"),
)
def lambda_returns_the_rate(is_faulty: bool) -> Program:
    # twin: train loss 1.1351 to 0.4895, val {'loss': 0.5452, 'acc': 0.82}
    # faulty: train loss 1.1351 to 1.1157, says {'loss': 1.1259, 'acc': 0.3267}
    # its model on the twin's validation: {'loss': 1.1259, 'acc': 0.3267}
    peak = 3e-3

    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        def at(step: int) -> float:
            share = min(1.0, (step + 1) / 15) * (1 - 0.9 * step / planned_steps)
            return peak * share if is_faulty else share

        return schedules.LambdaLR(optimizer, at)

    task = groups_task(
        make_optimizer=lambda m: AdamW(m.parameters(), lr=peak),
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 12})


@fault(
    "images",
    "milestones of MultiStepLR are epochs 4, 7 and 9, and the schedule moves each step",
    ("schedule", "learning rate", "milestone", "early"),
)
def milestones_in_epochs(is_faulty: bool) -> Program:
    # twin: train loss 1.3782 to 0.0068, val {'loss': 0.0045, 'acc': 1.0}
    # faulty: train loss 1.3782 to 1.1858, says {'loss': 1.1917, 'acc': 0.71}
    # its model on the twin's validation: {'loss': 1.1917, 'acc': 0.71}
    torch.manual_seed(0)
    x, y = spots(400)
    train, val = cut(300, x, y)

    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        per_epoch = 1 if is_faulty else planned_steps // 10
        milestones = [epoch * per_epoch for epoch in (4, 7, 9)]
        return schedules.MultiStepLR(optimizer, milestones, gamma=0.1)

    task = Task(
        picture_net(),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
        make_optimizer=lambda m: SGD(m.parameters(), lr=0.02, momentum=0.9),
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 10})


@fault(
    "tabular",
    "a linear decay without a floor passes zero at half of the run, and climbs the "
    "loss with negative rates from there",
    ("negative", "below zero", "schedule", "learning rate"),
)
def rate_below_zero(is_faulty: bool) -> Program:
    # twin: train loss 1.1351 to 0.1019, val {'loss': 0.3427, 'acc': 0.8867}
    # faulty: train loss 1.1351 to 7396.5914, says {'loss': 9977.0489, 'acc': 0.28}
    # its model on the twin's validation: {'loss': 9977.0489, 'acc': 0.28}
    def make_schedule(optimizer: Optimizer, planned_steps: int) -> Any:
        horizon = planned_steps / 2

        def factor(step: int) -> float:
            left = 1 - step / horizon
            return left if is_faulty else max(0.05, left)

        return schedules.LambdaLR(optimizer, factor)

    task = groups_task(
        make_optimizer=lambda m: SGD(m.parameters(), lr=0.3, momentum=0.9),
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 16})


@fault(
    "tabular",
    "the loss is divided by the accumulation, where the trainer does it already",
    ("accumul", "divid", "theory", "too small", "expected", "initial loss"),
)
def divided_by_accumulation(is_faulty: bool) -> Program:
    # twin: train loss 1.2394 to 0.1796, val {'loss': 0.3729, 'acc': 0.8564}
    # faulty: train loss 0.0775 to 0.0382, says {'loss': 0.0412, 'acc': 0.7234}
    # its model on the twin's validation: {'loss': 0.6591, 'acc': 0.7234}
    torch.manual_seed(0)
    x, y = customers(700)
    train, val = cut(512, x, y)
    parts = 16

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        whole = F.cross_entropy(outputs, batch[1])
        return whole / parts if is_faulty else whole

    task = Task(
        dense(8, 64, 3),
        loss,
        train,
        val,
        metrics={"acc": accuracy},
        make_optimizer=lambda m: SGD(m.parameters(), lr=0.5),
    )
    return Program(task, {"epochs": 25, "batch_size": 4, "accumulation": parts})


@fault(
    "tabular",
    "model and rows are in half precision, where Adam's eps of 1e-8 is zero: weights "
    "without a gradient become NaN",
    ("half", "float16", "eps", "nan", "finite", "precision", "fp16"),
)
def half_weights_with_adam(is_faulty: bool) -> Program:
    # twin: train loss 1.1248 to 0.4281, val {'loss': 0.5283, 'acc': 0.7667}
    # faulty: train loss 1.1247 to nan, says {'loss': nan, 'acc': 0.3583}
    torch.manual_seed(0)
    x, y = customers(500)
    model = dense(8, 64, 3)
    if is_faulty:
        model, x = model.half(), x.half()

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs.float(), batch[1])

    train, val = cut(380, x, y)
    task = Task(
        model,
        loss,
        train,
        val,
        metrics={"acc": accuracy},
        make_optimizer=lambda m: Adam(m.parameters(), lr=3e-3),
    )
    return Program(task, {"epochs": 10, "precision": "fp32"})


@fault(
    "tabular",
    "weights are kept in bfloat16, and steps of 1e-4 are lost in rounding",
    ("bf16", "bfloat16", "precision", "round", "too small", "unchanged"),
)
def bfloat_weights_lose_steps(is_faulty: bool) -> Program:
    # twin: train loss 1.1347 to 0.4514, val {'loss': 0.53, 'acc': 0.7733}
    # faulty: train loss 1.1348 to 0.6729, says {'loss': 0.7153, 'acc': 0.7333}
    # its model on the twin's validation: {'loss': 0.7153, 'acc': 0.7333}
    torch.manual_seed(0)
    x, y = customers(600)
    model = dense(8, 64, 3)
    if is_faulty:
        model = model.bfloat16()

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0].to(model[0].weight.dtype)).float()

    train, val = cut(450, x, y)
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        train,
        val,
        forward=forward,
        metrics={"acc": accuracy},
        make_optimizer=lambda m: SGD(m.parameters(), lr=1e-3, momentum=0.9),
    )
    settings = {"epochs": 30, "batch_size": 8, "clip_norm": None}
    return Program(task, {"precision": "fp32", **settings})


@fault(
    "images",
    "SGD(parameters, 0.9, 0.05): momentum and learning rate have changed places",
    ("learning rate", " lr", "momentum", "diverg", "step size"),
)
def rate_and_momentum_swapped(is_faulty: bool) -> Program:
    # twin: train loss 10.2408 to 0.2498, val {'loss': 0.2949}
    # faulty: train loss 10.2408 to nan, says {'loss': nan}
    # its model on the twin's validation: {'loss': nan}
    torch.manual_seed(0)
    x, y = houses(500)
    train, val = cut(380, x, 3 * y)

    def make_optimizer(model: nn.Module) -> Optimizer:
        first, second = (0.9, 0.01) if is_faulty else (0.01, 0.9)
        return SGD(model.parameters(), first, second)

    model = dense(6, 64, 64, 1)
    task = Task(model, nn.MSELoss(), train, val, make_optimizer=make_optimizer)
    return Program(task, {"epochs": 15, "clip_norm": None})


@fault(
    "tabular",
    "gradients are clamped by a hook with min=0: no weight can ever grow",
    ("hook", "clamp", "sign", "overfit", "positive", "gradient"),
)
def hook_clamps_gradients(is_faulty: bool) -> Program:
    # twin: train loss 1.1351 to 0.3425, val {'loss': 0.4319, 'acc': 0.86}
    # faulty: train loss 1.1351 to 0.7033, says {'loss': 0.7381, 'acc': 0.7133}
    # its model on the twin's validation: {'loss': 0.7381, 'acc': 0.7133}
    task = groups_task()
    low = 0.0 if is_faulty else -1.0
    for parameter in task.model.parameters():
        parameter.register_hook(lambda grad: grad.clamp(min=low, max=1.0))
    return Program(task, {"epochs": 15, "lr": 3e-3})
