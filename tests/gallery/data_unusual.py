"""Data with structure for the unusual healthy programs, each from a seed of its own."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


def generator(seed: int) -> torch.Generator:
    """A source of randomness apart from the global one."""
    return torch.Generator().manual_seed(seed)


def clusters(
    num: int, width: int = 12, classes: int = 3, spread: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Points around one centre a class: ``x (num, width)`` and ``y (num,)``."""
    g = generator(seed)
    centres = 1.5 * torch.randn(classes, width, generator=g)
    y = torch.randint(classes, (num,), generator=g)
    return centres[y] + spread * torch.randn(num, width, generator=g), y


def curve(
    num: int, width: int = 6, noise: float = 0.1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A smooth function of a few inputs: ``x (num, width)`` and ``y (num, 1)``."""
    g = generator(seed)
    x = torch.randn(num, width, generator=g)
    slopes = torch.linspace(1.0, -1.0, width)
    y = torch.sin(1.5 * x[:, :1]) + (x @ slopes)[:, None] / 2
    return x, y + noise * torch.randn(num, 1, generator=g)


def gratings(
    num: int, size: int = 16, classes: int = 4, channels: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noisy stripes whose direction is the class, and their labels."""
    g = generator(seed)
    y = torch.randint(classes, (num,), generator=g)
    angle = y * (math.pi / classes) + 0.1 * torch.randn(num, generator=g)
    phase = 2 * math.pi * torch.rand(num, generator=g)
    axis = torch.arange(size, dtype=torch.float32)
    along = (
        angle.cos()[:, None, None] * axis[None, None, :]
        + angle.sin()[:, None, None] * axis[None, :, None]
    )
    wave = torch.sin(2 * math.pi * along / 5 + phase[:, None, None])
    noise = 0.3 * torch.randn(num, channels, size, size, generator=g)
    return wave[:, None] + noise, y


def bumps(num: int, size: int = 16, seed: int = 0) -> Tensor:
    """Images ``(num, 1, size, size)`` in [0, 1] of one bright spot each."""
    g = generator(seed)
    centre = size * (0.25 + 0.5 * torch.rand(num, 2, 1, 1, generator=g))
    radius = size * (0.1 + 0.1 * torch.rand(num, 1, 1, generator=g))
    axis = torch.arange(size, dtype=torch.float32)
    far = (axis[:, None] - centre[:, 0]).square() + (axis - centre[:, 1]).square()
    image = 0.9 * torch.exp(-far / (2 * radius.square())) + 0.03
    noise = 0.02 * torch.randn(num, size, size, generator=g)
    return (image + noise).clamp(0, 1)[:, None]


def markov(num: int, length: int = 16, vocab: int = 20, seed: int = 0) -> Tensor:
    """Token sequences ``(num, length)`` in which few tokens may follow each token.

    Tokens 0 and 1 do not occur: free for padding and masks.
    """
    g = generator(seed)
    table = torch.softmax(3.0 * torch.randn(vocab, vocab, generator=g), dim=1)
    table[:, :2] = 0
    tokens = torch.randint(2, vocab, (num, 1), generator=g)
    for _ in range(length - 1):
        following = torch.multinomial(table[tokens[:, -1]], 1, generator=g)
        tokens = torch.cat([tokens, following], dim=1)
    return tokens


def split(num_train: int, *columns: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """The first rows to train on, and the others."""
    return (
        tuple(column[:num_train] for column in columns),
        tuple(column[num_train:] for column in columns),
    )


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_cnn(channels: int = 1, classes: int = 4, width: int = 16) -> nn.Sequential:
    """Two convolutions, global pooling and a linear head."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def accuracy(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Share of right answers of a pair batch."""
    return (outputs.argmax(dim=-1) == batch[1]).float().mean()
