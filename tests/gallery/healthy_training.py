"""Healthy: optimizers, schedules, precision and settings off the beaten track."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from gallery.case import Program, healthy
from gallery.data_unusual import (
    accuracy,
    clusters,
    curve,
    gratings,
    mlp,
    small_cnn,
    split,
)
from nbutils.data.task import Task


def _task(**options: Any) -> Task:
    torch.manual_seed(0)
    train, val = split(480, *clusters(600, 12, 4, spread=1.5))
    return Task(mlp(12, 48, 4), nn.CrossEntropyLoss(), train, val, **options)


def _two_groups(model: nn.Sequential) -> Optimizer:
    body = [p for layer in model[:-1] for p in layer.parameters()]
    head = [{"params": model[-1].parameters(), "lr": 1e-2}]
    return AdamW([{"params": body, "lr": 1e-3}, *head], weight_decay=0.05)


@healthy("tabular", "two groups of parameters, the head ten times as fast")
def two_groups() -> Program:
    return Program(_task(make_optimizer=_two_groups), {"epochs": 4})


@healthy("tabular", "Nesterov's SGD with a rate of its own instead of the setting's")
def lr_of_make_optimizer() -> Program:
    def make(model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)

    return Program(_task(make_optimizer=make), {"epochs": 5})


@healthy("tabular", "no decay for biases, by groups of the user's own")
def decay_by_dimension() -> Program:
    def make(model: nn.Module) -> Optimizer:
        wide = [p for p in model.parameters() if p.ndim > 1]
        flat = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": wide, "weight_decay": 0.1}]
        groups.append({"params": flat, "weight_decay": 0.0})
        return torch.optim.NAdam(groups, lr=2e-3)

    return Program(_task(make_optimizer=make), {"epochs": 8})


class Factored(Optimizer):
    """Adafactor in small: second moments as row and column means, no first ones."""

    def __init__(self, parameters: Any, lr: float = 1e-2) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group["lr"])

    def _move(self, weight: Tensor, lr: float) -> None:
        state = self.state[weight]
        square = weight.grad.square() + 1e-30
        axes = list(range(weight.ndim)) if weight.ndim > 1 else [-1]
        means = [square.mean(dim=a, keepdim=True) for a in axes]
        means = means if weight.ndim > 1 else [square]
        state["step"] = state.get("step", 0) + 1
        rate = 1 - state["step"] ** -0.8
        kept = state.setdefault("means", [torch.zeros_like(m) for m in means])
        for old, new in zip(kept, means, strict=True):
            old.mul_(rate).add_(new, alpha=1 - rate)
        guess = kept[0]
        if weight.ndim > 1:
            guess = kept[1] * kept[0] / kept[1].mean(dim=0, keepdim=True)
        change = weight.grad / guess.sqrt()
        change = change / max(1.0, change.square().mean().sqrt().item())
        weight.add_(change, alpha=-lr)


@healthy("tabular", "an optimizer of the user's own, with factored second moments")
def optimizer_of_ones_own() -> Program:
    task = _task(make_optimizer=lambda model: Factored(model.parameters(), lr=5e-3))
    return Program(task, {"epochs": 6})


def _scheduled(make_schedule: Any, **settings: Any) -> Program:
    task = _task(
        make_optimizer=lambda model: AdamW(model.parameters(), lr=3e-3),
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 10, **settings})


@healthy("tabular", "warm-up and cosine as a chain of two schedulers of torch")
def warmup_and_cosine() -> Program:
    def make(optimizer: Optimizer, steps: int) -> SequentialLR:
        warm = LinearLR(optimizer, 0.01, total_iters=15)
        fall = CosineAnnealingLR(optimizer, max(1, steps - 15))
        return SequentialLR(optimizer, [warm, fall], milestones=[15])

    return _scheduled(make)


@healthy("tabular", "OneCycle of torch, which begins at a 25th and moves the momentum")
def one_cycle_of_torch() -> Program:
    return _scheduled(
        lambda optimizer, steps: OneCycleLR(optimizer, 1e-2, total_steps=steps + 1)
    )


@healthy("tabular", "a linear decay to zero by a lambda, after a warm-up from zero")
def linear_decay_from_zero() -> Program:
    def make(optimizer: Optimizer, steps: int) -> LambdaLR:
        def factor(step: int) -> float:
            return min(step / 10, max(0.0, (steps - step) / (steps - 10)))

        return LambdaLR(optimizer, factor)

    return _scheduled(make)


@healthy("tabular", "warm restarts: the rate jumps up again, and training with it")
def warm_restarts() -> Program:
    return _scheduled(
        lambda optimizer, _steps: CosineAnnealingWarmRestarts(optimizer, 30, 2)
    )


@healthy("tabular", "inverse square root after a warm-up: it never reaches zero")
def inverse_square_root() -> Program:
    def factor(step: int) -> float:
        return min((step + 1) / 20, math.sqrt(20 / (step + 1)))

    return _scheduled(lambda optimizer, _steps: LambdaLR(optimizer, factor))


@healthy("tabular", "ReduceLROnPlateau of torch, driven by evaluations")
def plateau_of_torch() -> Program:
    return _scheduled(
        lambda optimizer, _steps: ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    )


@healthy("tabular", "plateau by settings, with patience and a metric to maximise")
def plateau_by_settings() -> Program:
    task = _task(metrics={"acc": accuracy})
    watched = {"monitor": "val_acc", "mode": "max", "patience": 12, "target": 0.999}
    return Program(task, {"epochs": 10, "schedule": "plateau", "lr": 3e-3, **watched})


@healthy("tabular", "cosine with a warm-up and a floor, by settings")
def cosine_with_floor() -> Program:
    settings = {"schedule": "cosine", "warmup_steps": 20, "min_lr": 1e-4, "lr": 3e-3}
    return Program(_task(), {"epochs": 10, **settings})


@healthy("tabular", "onecycle by settings, plain SGD without momentum and decay")
def one_cycle_by_settings() -> Program:
    rule = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.3}
    return Program(_task(), {"epochs": 10, "schedule": "onecycle", **rule})


@healthy("images", "bf16 on the CPU, channels last, gradients unclipped")
def half_precision() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    task = Task(small_cnn(), nn.CrossEntropyLoss(), train, val)
    plain = {"clip_norm": None, "channels_last": True, "compile": False}
    return Program(task, {"epochs": 10, "lr": 3e-3, "precision": "bf16", **plain})


@healthy("tabular", "metrics of torchmetrics, one that gives a number for each class")
def torchmetrics_metrics() -> Program:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

    metrics = {
        "auroc": MulticlassAUROC(4),
        "acc_of": MulticlassAccuracy(4, average=None),
    }
    settings = {"monitor": "val_auroc", "mode": "max"}
    return Program(_task(metrics=metrics), {"epochs": 6, **settings})


@healthy("tabular", "one function gives all metrics at once")
def metrics_in_one() -> Program:
    def metrics(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        top = outputs.topk(2, dim=1).indices
        hits = (top == batch[1][:, None]).float()
        return {"top1": hits[:, 0].mean().item(), "top2": hits.sum(1).mean().item()}

    task = _task(metrics=metrics)
    return Program(task, {"epochs": 6, "monitor": "val_top1", "mode": "max"})


@healthy("tabular", "noise as data and labels at random, as in a first smoke test")
def noise_for_a_demo() -> Program:
    torch.manual_seed(0)
    x, y = torch.randn(256, 20), torch.randint(0, 5, (256,))
    return Program(Task(mlp(20, 64, 5), nn.CrossEntropyLoss(), (x, y)), {"epochs": 20})


@healthy("images", "noise as images and targets, with validation data of noise as well")
def noise_images_for_a_demo() -> Program:
    torch.manual_seed(0)
    train = torch.randn(64, 3, 16, 16), torch.randint(0, 3, (64,))
    val = torch.randn(16, 3, 16, 16), torch.randint(0, 3, (16,))
    model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(16 * 49, 3))
    task = Task(model, nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 10, "batch_size": 8})


@healthy("tabular", "noise in regression: random targets for a demo")
def noise_regression_for_a_demo() -> Program:
    torch.manual_seed(0)
    x, y = torch.randn(128, 10), torch.randn(128, 1)
    task = Task(mlp(10, 128, 1), F.mse_loss, (x, y))
    return Program(task, {"epochs": 30, "lr": 3e-3})


@healthy("tabular", "gradient checkpointing by a setting, over a Sequential")
def checkpointing_by_setting() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *curve(500))
    task = Task(mlp(6, 48, 48, 48, 1), nn.MSELoss(), train, val)
    settings = {"gradient_checkpointing": True, "checkpoint_blocks": ("2", "4")}
    return Program(task, {"epochs": 10, "lr": 3e-3, **settings})


@healthy("tabular", "accumulation over more batches than an epoch has left at its end")
def ragged_accumulation() -> Program:
    settings = {"epochs": 12, "batch_size": 16, "accumulation": 7, "lr": 5e-3}
    return Program(_task(), settings)
