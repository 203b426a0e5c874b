"""Small data with structure in them, and small networks, for several files of cases."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.task import Task

__all__ = [
    "AHEAD",
    "LETTERS",
    "PAST",
    "Mixture",
    "accuracy",
    "blobs",
    "figures",
    "mixture_error",
    "mixture_nll",
    "mlp",
    "pictures_task",
    "plates",
    "rows_task",
    "sea_level",
    "sentences",
    "small_cnn",
    "snapshots",
    "steering",
    "tides",
    "windows",
]

LETTERS = 16
PAST, AHEAD, PARTS = 48, 6, 3

Data = tuple[Tensor, Tensor]


def accuracy(outputs: Tensor, batch: Any) -> float:
    """Share of right classes."""
    return float((outputs.argmax(-1) == batch[1]).float().mean())


def figures(
    count: int, classes: int = 6, size: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noisy colour pictures of a disc, ring, square, cross, bar or diagonal."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (count,), generator=draw)
    axis = torch.arange(size).float()
    centre = size / 2 + (torch.rand(count, 2, generator=draw) - 0.5) * size / 4
    v = axis.view(1, -1, 1) - centre[:, 0].view(-1, 1, 1)
    h = axis.view(1, 1, -1) - centre[:, 1].view(-1, 1, 1)
    v, h = torch.broadcast_tensors(v, h)
    radius, reach = (v**2 + h**2).sqrt(), size / 3.2
    inside = (v.abs() < reach) & (h.abs() < reach)
    forms = torch.stack(
        [
            radius < reach,
            (radius < reach) & (radius > reach - 2),
            inside,
            inside & ((v.abs() < 1.2) | (h.abs() < 1.2)),
            inside & (v.abs() < 1.2),
            inside & ((v - h).abs() < 1.8),
        ]
    )
    form = forms[label, torch.arange(count)].float()
    colour = 0.4 + 0.6 * torch.rand(count, 3, 1, 1, generator=draw)
    noise = 0.15 * torch.randn(count, 3, size, size, generator=draw)
    return (colour * form.unsqueeze(1) + 0.2 + noise).clamp(0, 1.5), label


def small_cnn(classes: int = 6, channels: int = 3) -> nn.Sequential:
    """Two convolutions and a linear head."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, classes),
    )


def mlp(features: int, outputs: int, hidden: int = 64) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def blobs(
    count: int, classes: int = 5, features: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows of standardised measurements around one centre per class."""
    centres = torch.randn(
        classes, features, generator=torch.Generator().manual_seed(99)
    )
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (count,), generator=draw)
    noise = torch.randn(count, features, generator=draw)
    return centres[label] * 1.6 + 0.8 * noise, label


def plates(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Width, length, thickness and density of plates, and what each weighs in kg."""
    draw = torch.Generator().manual_seed(seed)
    width, length = 0.5 + torch.rand(2, count, generator=draw)
    thickness = 1 + 4 * torch.rand(count, generator=draw)
    density = 2.7 + 5.1 * torch.rand(count, generator=draw)
    mass = width * length * thickness * density
    rows = torch.stack([width, length, thickness, density], 1)
    noise = 0.2 * torch.randn(count, generator=draw)
    return rows, (mass + noise).unsqueeze(1)


def sea_level(hours: int, seed: int = 0) -> Tensor:
    """Hourly tide of four constituents in metres, with a little weather."""
    draw = torch.Generator().manual_seed(seed)
    time = torch.arange(hours).float()
    level = torch.zeros(hours)
    for period, height in ((12.42, 1.0), (12.0, 0.4), (23.93, 0.3), (25.82, 0.2)):
        phase = 2 * math.pi * torch.rand((), generator=draw)
        level += height * torch.cos(2 * math.pi * time / period + phase)
    return level + 0.05 * torch.randn(hours, generator=draw)


def windows(series: Tensor, past: int, ahead: int) -> tuple[Tensor, Tensor]:
    """Every stretch of ``past`` values with the ``ahead`` values that follow it."""
    both = series.unfold(0, past + ahead, 1)
    return both[:, :past].contiguous(), both[:, past:].contiguous()


def sentences(count: int, length: int, seed: int = 0) -> Tensor:
    """Letters of a Markov chain: about three likely successors for each letter."""
    table = torch.Generator().manual_seed(77)
    chances = torch.softmax(4 * torch.randn(LETTERS, LETTERS, generator=table), 1)
    draw = torch.Generator().manual_seed(seed)
    letters = [torch.randint(LETTERS, (count,), generator=draw)]
    for _ in range(length - 1):
        letters.append(
            torch.multinomial(chances[letters[-1]], 1, generator=draw).squeeze(1)
        )
    return torch.stack(letters, 1)


def steering(angle: Tensor, antennas: int) -> Tensor:
    """Response of a half-wave line array to a wave from ``angle`` in radians."""
    index = torch.arange(antennas) - (antennas - 1) / 2
    return torch.exp(1j * math.pi * index * torch.sin(angle).unsqueeze(-1))


def snapshots(
    count: int, antennas: int = 8, length: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Complex signals ``(count, antennas, length)`` of one source, and its angle."""
    draw = torch.Generator().manual_seed(seed)
    angle = (torch.rand(count, generator=draw) - 0.5) * math.radians(120)
    wave = torch.randn(count, 1, length, dtype=torch.complex64, generator=draw)
    noise = torch.randn(count, antennas, length, dtype=torch.complex64, generator=draw)
    return steering(angle, antennas).unsqueeze(-1) * wave + 0.3 * noise, angle


def tides(noise: float = 0.1) -> tuple[Data, Data]:
    """Windows of the sea level to train on, and later ones to validate."""
    level = sea_level(1300) + noise * torch.randn(1300)
    x, y = windows(level, PAST, AHEAD)
    return (x[:900], y[:900]), (x[960:], y[960:])


class Mixture(nn.Module):
    """Means, log widths and log weights of a mixture for each hour ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(PAST, AHEAD * PARTS * 3)

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw = self.net(past).view(-1, AHEAD, PARTS, 3)
        means, widths, weights = raw.unbind(-1)
        return means, widths.clamp(-5, 2), weights.log_softmax(-1)


def mixture_nll(log_pi: Tensor, mu: Tensor, log_sigma: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of ``y``."""
    z = (y.unsqueeze(-1) - mu) * (-log_sigma).exp()
    each = log_pi - 0.5 * z**2 - log_sigma - 0.5 * math.log(2 * math.pi)
    return -each.logsumexp(-1).mean()


def mixture_error(outputs: Any, batch: Any) -> float:
    """Mean absolute error of the mixture's mean."""
    means, _, log_weights = outputs
    guess = (means * log_weights.exp()).sum(-1)
    return float((guess - batch[1]).abs().mean())


def rows_task(model: nn.Module) -> Task:
    """Five kinds of measurements, told by ``model``."""
    return Task(
        model,
        nn.CrossEntropyLoss(),
        blobs(600),
        blobs(192, seed=1),
        metrics={"acc": accuracy},
    )


def pictures_task(**options: Any) -> Task:
    """Six figures, told by a small convolutional network."""
    torch.manual_seed(0)
    return Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        figures(600),
        figures(150, seed=1),
        metrics={"acc": accuracy},
        **options,
    )
