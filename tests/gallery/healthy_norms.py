"""Healthy: unusual batch sizes, few samples, much noise by design, rare classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@healthy("images", "batches of one image, with group norm and accumulation")
def group_norm_batch_of_one() -> Program:
    torch.manual_seed(0)
    train, val = split(160, *gratings(200))
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 6, "batch_size": 1, "accumulation": 4})


@healthy("images", "image to image, instance norm, batches of one")
def instance_norm_batch_of_one() -> Program:
    torch.manual_seed(0)
    clean, _ = gratings(120)
    train, val = split(96, clean + 0.5 * torch.randn_like(clean), clean)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.InstanceNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.InstanceNorm2d(16, affine=True),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )
    task = Task(model, nn.MSELoss(), train, val)
    return Program(task, {"epochs": 6, "batch_size": 1})


@healthy(
    "tabular",
    "one sample alone, to see whether it can be learnt by heart",
    may_warn={"R5": "one target says little"},
)
def single_sample() -> Program:
    torch.manual_seed(0)
    x, y = curve(1)
    return Program(Task(mlp(6, 32, 1), nn.MSELoss(), (x, y)), {"epochs": 60})


@healthy("tabular", "eight samples, to be learnt by heart, and no validation")
def eight_samples() -> Program:
    torch.manual_seed(0)
    x, y = clusters(8, 12, 2, spread=2.0)
    model = mlp(12, 32, 2)
    return Program(Task(model, nn.CrossEntropyLoss(), (x, y)), {"epochs": 40})


@healthy("tabular", "the batch size is larger than the data: one batch is the epoch")
def one_batch_an_epoch() -> Program:
    torch.manual_seed(0)
    train, val = split(100, *clusters(130))
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU())
    model.append(nn.Linear(32, 3))
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 40, "batch_size": 256, "lr": 3e-3})


@healthy("tabular", "dropout of 0.8 after a wide layer: training looks far worse")
def heavy_dropout() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=1.5))
    model = nn.Sequential(
        nn.Linear(12, 256),
        nn.ReLU(),
        nn.Dropout(0.8),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.8),
        nn.Linear(128, 3),
    )
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 12})


@healthy("images", "channel dropout on the input and Gaussian noise in the model")
def noisy_inputs() -> Program:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.5 * torch.randn_like(x) if self.training else x

    torch.manual_seed(0)
    train, val = split(320, *gratings(400, channels=3))
    model = nn.Sequential(nn.Dropout2d(0.2), Noise(), small_cnn(3))
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "lr": 3e-3})


class StochasticDepth(nn.Module):
    """Residual blocks of which half are left out at random while training."""

    def __init__(self, depth: int = 8, width: int = 48, survival: float = 0.5) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())
            for _ in range(depth)
        )
        self.leave = nn.Linear(width, 3)
        self.survival = survival

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        for block in self.blocks:
            if not self.training:
                hidden = hidden + self.survival * block(hidden)
            elif torch.rand(()) < self.survival:
                hidden = hidden + block(hidden)
        return self.leave(hidden)


@healthy("tabular", "blocks are skipped at random: some get no gradient in a step")
def stochastic_depth() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=1.5))
    task = Task(StochasticDepth(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 10})


@healthy("tabular", "95 of 100 samples are of one class, and the loss weighs for it")
def imbalanced() -> Program:
    torch.manual_seed(0)
    y = (torch.rand(1500) < 0.05).long()
    x = torch.randn(1500, 8)
    x[:, 0] += 2.5 * y
    x[:, 1] -= 2.0 * y
    train, val = split(1200, x, y)

    def recall(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        rare = batch[1] == 1
        if not rare.any():
            return 1.0
        return (outputs[rare].argmax(dim=1) == 1).float().mean().item()

    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.53, 10.0]))
    task = Task(mlp(8, 32, 2), loss, train, val, metrics={"recall": recall})
    return Program(task, {"epochs": 5, "batch_size": 64})


@healthy("tabular", "95 of 100 samples are of one class, and the loss is plain")
def imbalanced_and_plain() -> Program:
    torch.manual_seed(0)
    y = (torch.rand(1500, 1) < 0.05).float()
    x = torch.randn(1500, 8)
    x[:, :1] += 3 * y
    train, val = split(1200, x, y)
    task = Task(mlp(8, 32, 1), nn.BCEWithLogitsLoss(), train, val)
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy("tabular", "one of ten classes does not occur in the small validation set")
def class_absent_from_validation() -> Program:
    torch.manual_seed(0)
    (x, y), (held_x, held_y) = split(600, *clusters(680, 16, 10))
    kept = held_y != 7
    task = Task(
        mlp(16, 64, 10),
        nn.CrossEntropyLoss(),
        (x, y),
        (held_x[kept], held_y[kept]),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 8})


@healthy("tabular", "the head has 100 classes as the catalogue, and 12 occur so far")
def more_classes_than_occur() -> Program:
    torch.manual_seed(0)
    x, y = clusters(600, 16, 12)
    train, val = split(480, x, 8 * y + 1)
    task = Task(mlp(16, 64, 100), F.cross_entropy, train, val)
    return Program(task, {"epochs": 10, "lr": 3e-3})


@healthy("tabular", "the last batch of an epoch has one sample, and layer norm copes")
def last_batch_of_one() -> Program:
    torch.manual_seed(0)
    train, val = split(257, *clusters(320))
    model = nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.SiLU())
    model.append(nn.Linear(32, 3))
    task = Task(model, nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 8})
