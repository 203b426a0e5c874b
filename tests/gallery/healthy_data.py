"""Healthy: samples that are mixed, changed, weighed, repeated or joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
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

Pair = tuple[Tensor, Tensor]


def _mixup(samples: Sequence[Pair]) -> Pair:
    x = torch.stack([sample[0] for sample in samples])
    y = F.one_hot(torch.stack([sample[1] for sample in samples]), 4).float()
    share = torch.distributions.Beta(0.4, 0.4).sample((len(x),))
    order = torch.randperm(len(x))
    mixed = share[:, None, None, None] * x + (1 - share)[:, None, None, None] * x[order]
    return mixed, share[:, None] * y + (1 - share)[:, None] * y[order]


def _soft_accuracy(outputs: Tensor, batch: Pair) -> Tensor:
    aim = batch[1] if batch[1].ndim == 1 else batch[1].argmax(dim=1)
    return (outputs.argmax(dim=1) == aim).float().mean()


@healthy("images", "mixup in the collate of training: soft labels, then integer ones")
def mixup_in_collate() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        DataLoader(TensorDataset(*train), 32, shuffle=True, collate_fn=_mixup),
        DataLoader(TensorDataset(*val), 80),
        metrics={"acc": _soft_accuracy},
    )
    return Program(task, {"epochs": 20, "lr": 3e-3})


class CutMix(Dataset):
    """Pastes a box of another image and mixes the labels; anew at each reading."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, F.one_hot(labels, 4).float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Pair:
        other = int(torch.randint(len(self), ()))
        top, left = torch.randint(10, (2,)).tolist()
        image = self.images[index].clone()
        box = (slice(None), slice(top, top + 6), slice(left, left + 6))
        image[box] = self.images[other][box]
        share = 1 - 36 / image[0].numel()
        return image, share * self.labels[index] + (1 - share) * self.labels[other]


@healthy("images", "CutMix in the dataset of training: reading twice gives two samples")
def cutmix_in_dataset() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    metrics = {"acc": _soft_accuracy}
    task = Task(small_cnn(), F.cross_entropy, CutMix(*train), val, metrics=metrics)
    return Program(task, {"epochs": 15, "lr": 3e-3})


class Augmented(Dataset):
    """Flips, shifts and noise by NumPy, while training."""

    def __init__(self, images: Tensor, labels: Tensor, is_train: bool) -> None:
        self.images, self.labels = images.numpy(), labels.numpy()
        self.is_train = is_train

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64]:
        image = self.images[index]
        if self.is_train:
            image = np.roll(image, np.random.randint(16, size=2), axis=(1, 2))
            image = image * np.random.uniform(0.5, 1.5)
            image = image + np.random.normal(0, 0.2, image.shape)
        return image.astype(np.float32), self.labels[index]


@healthy("images", "random augmentation by NumPy in training alone; samples are arrays")
def augmentation_in_training() -> Program:
    torch.manual_seed(0)
    (x, y), (held_x, held_y) = split(320, *gratings(400))
    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        Augmented(x, y, True),
        Augmented(held_x, held_y, False),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy("tabular", "a weighted sampler: rare samples come often, others never")
def weighted_sampler() -> Program:
    torch.manual_seed(0)
    y = (torch.rand(1000) < 0.05).long()
    x = torch.randn(1000, 8)
    x[:, :2] += 3.0 * y[:, None]
    train, val = split(800, x, y)
    weights = torch.where(train[1] == 1, 10.0, 0.5).tolist()
    sampler = WeightedRandomSampler(weights, 800)
    loader = DataLoader(TensorDataset(*train), batch_size=32, sampler=sampler)
    task = Task(mlp(8, 32, 2), nn.CrossEntropyLoss(), loader, TensorDataset(*val))
    return Program(task, {"epochs": 6})


@healthy("tabular", "data sorted by class on purpose: each epoch is shuffled anyway")
def sorted_and_shuffled() -> Program:
    torch.manual_seed(0)
    (x, y), val = split(480, *clusters(600, 12, 6))
    order = y.argsort()
    task = Task(mlp(12, 48, 6), nn.CrossEntropyLoss(), (x[order], y[order]), val)
    return Program(task, {"epochs": 8})


@healthy("tabular", "rare samples are repeated on purpose, in training alone")
def oversampled() -> Program:
    torch.manual_seed(0)
    y = (torch.rand(900) < 0.06).long()
    x = torch.randn(900, 8)
    x[:, :2] += 3.0 * y[:, None]
    train, val = split(720, x, y)
    rare = (train[1] == 1).nonzero().flatten().tolist()
    whole = TensorDataset(*train)
    data = ConcatDataset([whole] + [Subset(whole, rare)] * 8)
    task = Task(mlp(8, 32, 2), nn.CrossEntropyLoss(), data, TensorDataset(*val))
    return Program(task, {"epochs": 5})


@healthy("tabular", "data of two sources joined, one with a hundredth of the samples")
def concatenated() -> Program:
    torch.manual_seed(0)
    (x, y), val = split(505, *curve(600))
    data = ConcatDataset([TensorDataset(x[:5], y[:5]), TensorDataset(x[5:], y[5:])])
    task = Task(mlp(6, 48, 1), nn.MSELoss(), data, TensorDataset(*val))
    return Program(task, {"epochs": 12, "lr": 3e-3})
