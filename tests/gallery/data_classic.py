"""Small learnable data and metrics for the programs with classic faults."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def halves(x: Tensor, y: Tensor, held_out: int) -> tuple[Pair, Pair]:
    """Training and validation data in a drawn order."""
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    return (x[held_out:], y[held_out:]), (x[:held_out], y[:held_out])


def digits(held_out: int = 397) -> tuple[Pair, Pair]:
    """Scans of written digits in [0, 1], (1, 8, 8), and their class of ten."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    return halves(x, torch.tensor(found.target).long(), held_out)


def tumours(held_out: int = 169) -> tuple[Pair, Pair]:
    """Thirty standardised measures of a tumour, and whether it is benign."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    x = torch.tensor(found.data, dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    return halves(x, torch.tensor(found.target).long(), held_out)


def flats(count: int = 1200) -> tuple[Pair, Pair]:
    """Standardised facts of flats, and their price in units of 100 000, (B, 1)."""
    x = torch.randn(count, 6)
    area, age, floor = x[:, 0], x[:, 1], x[:, 2]
    price = 3.2 + 0.9 * area + 0.3 * area * age - 0.5 * age.clamp(min=0)
    price = price + 0.2 * torch.sin(2 * floor) + 0.1 * torch.randn(count)
    return halves(x, price[:, None], 300)


def rings(count: int = 1200, classes: int = 3) -> tuple[Pair, Pair]:
    """Points in the plane on rings around the origin; the ring is the class."""
    y = torch.randint(classes, (count,))
    angle = 2 * math.pi * torch.rand(count)
    radius = 0.5 + y.float() + 0.12 * torch.randn(count)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return halves(x, y, count // 4)


def waves(count: int = 900, steps: int = 40, classes: int = 4) -> tuple[Pair, Pair]:
    """Three noisy channels (T, 3) whose common frequency is the class."""
    y = torch.randint(classes, (count,))
    time = torch.arange(steps) / steps
    phase = 2 * math.pi * torch.rand(count, 1, 3)
    speed = (1.0 + 2.0 * y.float())[:, None, None]
    x = torch.sin(2 * math.pi * speed * time[None, :, None] + phase)
    return halves(x + 0.3 * torch.randn_like(x), y, count // 3)


def temperatures(count: int = 1200, steps: int = 24) -> tuple[Pair, Pair]:
    """A day of hourly values (T, 1) around zero, and the next three hours."""
    start = 24 * torch.rand(count, 1)
    hours = start + torch.arange(steps + 3)
    swing = 0.5 + torch.rand(count, 1)
    series = swing * torch.sin(2 * math.pi * hours / 24) + 0.05 * torch.randn(
        count, steps + 3
    )
    return halves(series[:, :steps, None], series[:, steps:], 300)


def reviews(count: int = 1500, words: int = 12) -> tuple[Pair, Pair]:
    """Token ids of short reviews; id 3 turns the next opinion round.

    Ids 4 to 11 praise, 12 to 19 complain, 20 to 39 say nothing. Class: whether the
    praise outweighs.
    """
    tokens = torch.randint(20, 40, (count, words))
    said = torch.rand(count, words) < 0.5
    opinions = torch.randint(4, 20, (count, words))
    tokens = torch.where(said, opinions, tokens)
    turns = torch.rand(count, words) < 0.15
    tokens = torch.where(turns, torch.full_like(tokens, 3), tokens)
    sign = (tokens >= 4).float() * (tokens < 20) * torch.where(tokens < 12, 1.0, -1.0)
    sign[:, 1:] *= torch.where(tokens[:, :-1] == 3, -1.0, 1.0)
    total = sign.sum(1)
    kept = total != 0
    return halves(tokens[kept], (total[kept] > 0).long(), int(kept.sum()) // 4)


def copies(
    count: int = 1200, words: int = 8, vocabulary: int = 12
) -> tuple[Pair, Pair]:
    """Sentences of token ids, and the same sentence backwards."""
    tokens = torch.randint(2, vocabulary, (count, words))
    return halves(tokens, tokens.flip(1), count // 4)


def molecules(count: int = 400, kinds: int = 2) -> tuple[list[Any], list[Any]]:
    """Rings of atoms; class: the kind that is met most often next to itself."""
    from torch_geometric.data import Data

    graphs = []
    while len(graphs) < count:
        nodes = int(torch.randint(7, 13, ()))
        atoms = torch.randint(kinds, (nodes,))
        ring = torch.arange(nodes)
        bonds = torch.stack([ring, (ring + 1) % nodes])
        same = atoms[bonds[0]][atoms[bonds[0]] == atoms[bonds[1]]]
        often = torch.bincount(same, minlength=kinds)
        if (often == often.max()).sum() > 1:
            continue
        edges = torch.cat([bonds, bonds.flip(0)], dim=1)
        x = torch.nn.functional.one_hot(atoms, kinds).float()
        graphs.append(Data(x=x, edge_index=edges, y=often.argmax()[None]))
    return graphs[: count * 3 // 4], graphs[count * 3 // 4 :]


def shapes(count: int = 500, size: int = 16) -> tuple[list[Any], list[Any]]:
    """Images (3, H, W) of a bright box and a dark box, and the class of each pixel."""
    samples = []
    for _ in range(count):
        image = 0.5 + 0.1 * torch.randn(3, size, size)
        mask = torch.zeros(size, size, dtype=torch.long)
        for label, change in ((1, 0.4), (2, -0.4)):
            top, left = torch.randint(0, size - 6, (2,)).tolist()
            high, wide = torch.randint(4, 7, (2,)).tolist()
            mask[top : top + high, left : left + wide] = label
            image[:, mask == label] = 0.5 + change + 0.1 * torch.randn(3, 1)
        samples.append({"image": image, "mask": mask})
    return samples[count // 5 :], samples[: count // 5]


def accuracy(outputs: Tensor, batch: Any) -> float:
    """Share of samples whose highest output is the class in ``batch[1]``."""
    return (outputs.argmax(1) == batch[1]).float().mean().item()


def graph_accuracy(outputs: Tensor, batch: Any) -> float:
    """Share of graphs whose highest output is their class."""
    return (outputs.argmax(1) == batch.y).float().mean().item()


def absolute_error(outputs: Tensor, batch: Any) -> float:
    """Mean absolute error against ``batch[1]``."""
    return (outputs - batch[1]).abs().mean().item()
