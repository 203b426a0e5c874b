"""Healthy: optimizers, schedules, batches and settings that are rare and right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, AdamW, Optimizer, RMSprop
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader

from gallery.case import Program, healthy
from gallery.data_second import accuracy, customers, cut, dense, houses, spots
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


def customer_task(**options: Any) -> Task:
    torch.manual_seed(0)
    x, y = customers(600)
    train, val = cut(450, x, y)
    return Task(
        dense(8, 48, 3),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
        **options,
    )


@healthy("tabular", "Adadelta with its own rate of 1, as its paper has it")
def adadelta_with_rate_one() -> Program:
    task = customer_task(make_optimizer=lambda m: Adadelta(m.parameters(), lr=1.0))
    return Program(task, {"epochs": 12})


@healthy(
    "tabular", "RMSprop, centred, with momentum; its eps of 1e-3 is a known recipe"
)
def centred_rmsprop() -> Program:
    def make(model: nn.Module) -> Optimizer:
        return RMSprop(
            model.parameters(), lr=2e-3, eps=1e-3, momentum=0.9, centered=True
        )

    return Program(customer_task(make_optimizer=make), {"epochs": 12})


class Muon(Optimizer):
    """Momentum made orthogonal for matrices; signs for what is flat."""

    def __init__(self, parameters: Any, lr: float = 0.02) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(0.9).add_(p.grad)
                move = 0.1 * momentum.sign()
                if p.ndim == 2:
                    u, _, v = torch.linalg.svd(momentum, full_matrices=False)
                    move = u @ v * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.sub_(group["lr"] * move)


@healthy(
    "tabular",
    "an optimizer whose steps have the same size whatever the gradient's, so that the "
    "last steps are as long as the first but for the schedule",
)
def orthogonal_momentum() -> Program:
    def make_schedule(optimizer: Optimizer, steps: int) -> Any:
        return schedules.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))

    task = customer_task(
        make_optimizer=lambda m: Muon(m.parameters()), make_schedule=make_schedule
    )
    return Program(task, {"epochs": 12})


@healthy(
    "tabular",
    "a convex problem: one linear layer, plain SGD, a rate of 1, and weights of zero "
    "to begin with, which is no fault where no hidden layer is",
)
def logistic_regression_from_zero() -> Program:
    torch.manual_seed(0)
    x = torch.randn(500, 20)
    y = (x @ torch.randn(20, 3) + 0.5 * torch.randn(500, 3)).argmax(1)
    model = nn.Linear(20, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    train, val = cut(380, x, y)
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
        make_optimizer=lambda m: SGD(m.parameters(), lr=1.0),
    )
    return Program(task, {"epochs": 10, "clip_norm": None})


@healthy(
    "tabular", "a triangular cyclic rate that rises and falls six times in the run"
)
def cyclic_rate() -> Program:
    def make_schedule(optimizer: Optimizer, steps: int) -> Any:
        half = max(1, steps // 12)
        return schedules.CyclicLR(
            optimizer, 1e-3, 0.1, step_size_up=half, mode="triangular2"
        )

    task = customer_task(
        make_optimizer=lambda m: SGD(m.parameters(), lr=1e-3, momentum=0.9),
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 12})


@healthy("tabular", "half of the run is warm-up, the other half a polynomial decay")
def long_warmup() -> Program:
    def make_schedule(optimizer: Optimizer, steps: int) -> Any:
        def factor(step: int) -> float:
            if step < steps / 2:
                return (step + 1) / (steps / 2)
            return max(0.0, 2 * (1 - step / steps)) ** 2

        return schedules.LambdaLR(optimizer, factor)

    task = customer_task(
        make_optimizer=lambda m: AdamW(m.parameters(), lr=5e-3),
        make_schedule=make_schedule,
    )
    return Program(task, {"epochs": 12})


@healthy(
    "images",
    "micro-batches of two with group norm and an accumulation of 16: the batch is 32, "
    "though no forward pass sees so many",
)
def micro_batches_of_two() -> Program:
    torch.manual_seed(0)
    x, y = spots(300)
    train, val = cut(224, 2 * x - 1, y)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, bias=False),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, bias=False),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(
        task, {"epochs": 10, "batch_size": 2, "accumulation": 16, "lr": 5e-3}
    )


@healthy(
    "tabular",
    "full batches: one step per epoch, 60 epochs, momentum of 0.96 for so few steps",
)
def full_batch() -> Program:
    task = customer_task(
        make_optimizer=lambda m: SGD(m.parameters(), 0.1, 0.96, nesterov=True)
    )
    return Program(task, {"epochs": 60, "batch_size": 450})


@healthy(
    "images",
    "a loader of the user's own, in which a sampler puts each class equally often in "
    "each batch, and data of which one class has five pictures",
)
def balanced_batches() -> Program:
    torch.manual_seed(0)
    x, y = spots(400)
    rare = (y != 3) | ((y == 3).cumsum(0) <= 5) | (torch.arange(400) >= 300)
    x, y = x[rare], y[rare]
    count = int(rare[:300].sum())
    rows = [torch.nonzero(y[:count] == kind).flatten() for kind in range(4)]

    class Balanced:
        def __len__(self) -> int:
            return 12

        def __iter__(self) -> Iterator[list[int]]:
            for _ in range(12):
                drawn = [of[torch.randint(len(of), (6,))] for of in rows]
                yield torch.cat(drawn).tolist()

    from gallery.data_second import picture_net

    data = torch.utils.data.TensorDataset(x[:count], y[:count])
    loader = DataLoader(data, batch_sampler=Balanced())
    task = Task(
        picture_net(),
        nn.CrossEntropyLoss(),
        loader,
        (x[count:], y[count:]),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 3e-3})


@healthy(
    "tabular",
    "the error of a price in euros is watched, in the hundreds of thousands, while the "
    "loss is on standardised logarithms",
)
def metric_in_other_units() -> Program:
    torch.manual_seed(0)
    x, y = houses(600)

    def euros(outputs: Tensor, batch: Pair) -> float:
        said, truth = torch.exp(12.5 + 0.4 * outputs), torch.exp(12.5 + 0.4 * batch[1])
        return (said - truth).abs().median().item()

    train, val = cut(450, x, y)
    task = Task(
        dense(6, 48, 1), nn.MSELoss(), train, val, metrics={"median_eur": euros}
    )
    return Program(
        task, {"epochs": 15, "lr": 5e-3, "monitor": "val_median_eur", "patience": 8}
    )


@healthy(
    "tabular",
    "a frozen network and a new one on the same input: the new one learns what the old "
    "gets wrong, and its last layer starts at zero, so that the first loss is the old "
    "one's",
)
def residual_on_old_network() -> Program:
    torch.manual_seed(0)
    x, y = houses(600)
    old = nn.Linear(6, 1)
    weights = torch.linalg.lstsq(x[:450], y[:450]).solution
    with torch.no_grad():
        old.weight.copy_(weights.T)
        old.bias.zero_()
    old.requires_grad_(False)

    class Correction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.old, self.new = old, dense(6, 48, 1)
            nn.init.zeros_(self.new[-1].weight)
            nn.init.zeros_(self.new[-1].bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.old(x) + self.new(x)

    train, val = cut(450, x, y)
    return Program(
        Task(Correction(), nn.MSELoss(), train, val), {"epochs": 15, "lr": 5e-3}
    )
