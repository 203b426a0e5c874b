"""Small learnable data that several of the programs share."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


def accuracy(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
    """Share of rows whose largest logit is the label."""
    return (outputs.argmax(-1) == batch[1]).float().mean().item()


def cut(count: int, *columns: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The first ``count`` rows, and the rest."""
    return tuple(c[:count] for c in columns), tuple(c[count:] for c in columns)


def spots(count: int = 400, size: int = 16, classes: int = 4, seed: int = 0) -> Pair:
    """RGB pictures in [0, 1] with a textured patch; its stripes' angle is the class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=g)
    grid = torch.arange(size) / size
    angle = math.pi * y.float() / classes
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=g)
    along = grid[None, :, None] * angle.cos()[:, None, None]
    along = along + grid[None, None, :] * angle.sin()[:, None, None]
    wave = 0.5 + 0.3 * torch.sin(2 * math.pi * 3 * along + phase)
    tint = torch.tensor([1.0, 0.8, 0.55])[None, :, None, None]
    x = wave[:, None] * tint + 0.08 * torch.randn(count, 3, size, size, generator=g)
    return x.clamp(0, 1), y


def customers(count: int = 500, seed: int = 0, noise: float = 0.3) -> Pair:
    """Eight standard columns, and which of three groups a customer is in."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=g)
    score = torch.stack(
        [
            1.5 * x[:, 0] + x[:, 1] * x[:, 2],
            1.5 * x[:, 3] - x[:, 4].abs() + 0.8,
            x[:, 5] + x[:, 6] * x[:, 0],
        ],
        dim=1,
    )
    score = score + noise * torch.randn(count, 3, generator=g)
    return x, score.argmax(1)


def houses(count: int = 500, seed: int = 0) -> Pair:
    """Six standard columns, and a standard price, (B, 1)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=g)
    y = 0.7 * x[:, 0] + 0.5 * x[:, 1] * x[:, 2] - 0.4 * torch.sin(2 * x[:, 3])
    y = y + 0.05 * torch.randn(count, generator=g)
    return x, ((y - y.mean()) / y.std())[:, None]


def tones(count: int = 400, length: int = 64, classes: int = 4, seed: int = 0) -> Pair:
    """One noisy channel (1, T); its pitch is the class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=g)
    time = torch.arange(length) / length
    phase = 2 * math.pi * torch.rand(count, 1, generator=g)
    pitch = (3.0 + 3.0 * y.float())[:, None]
    x = torch.sin(2 * math.pi * pitch * time + phase)
    return (x + 0.25 * torch.randn(count, length, generator=g))[:, None], y


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLUs between."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def picture_net(classes: int = 4, width: int = 16) -> nn.Sequential:
    """Two convolutions with batch norm, and a linear head."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )
