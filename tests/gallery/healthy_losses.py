"""Healthy: classification-like losses that are not plain cross-entropy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_unusual import (
    accuracy,
    clusters,
    generator,
    gratings,
    mlp,
    small_cnn,
    split,
)
from nbutils.data.task import Task


@healthy("tabular", "label smoothing in the loss: it never comes near zero")
def label_smoothing() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 12, 5))
    loss = nn.CrossEntropyLoss(label_smoothing=0.2)
    task = Task(mlp(12, 48, 5), loss, train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10})


@healthy("tabular", "label smoothing by a setting of the run")
def label_smoothing_by_setting() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 12, 5))
    task = Task(mlp(12, 48, 5), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 10, "label_smoothing": 0.1})


class DenseDetector(nn.Module):
    """A centre heatmap and box sizes; the heatmap's bias says that objects are rare."""

    def __init__(self, prior: float = 0.01) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.heat = nn.Conv2d(24, 1, 3, padding=1)
        self.size = nn.Conv2d(24, 2, 3, padding=1)
        nn.init.constant_(self.heat.bias, -math.log((1 - prior) / prior))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.body(batch["image"])
        return {"heat": self.heat(hidden), "size": self.size(hidden)}


def _detection(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict:
    aim = batch["heat"]
    chance = outputs["heat"].sigmoid()
    plain = F.binary_cross_entropy_with_logits(outputs["heat"], aim, reduction="none")
    surprise = torch.where(aim == 1, 1 - chance, chance).square()
    weight = torch.where(aim == 1, 0.75, 0.25)
    num = aim.sum().clamp(min=1)
    size = F.l1_loss(outputs["size"] * aim, batch["size"], reduction="sum")
    return {"focal": (weight * surprise * plain).sum() / num, "box": size / num}


@healthy("dicts", "RetinaNet's prior bias, focal loss, loss terms of a detector")
def focal_detector_with_prior_bias() -> Program:
    torch.manual_seed(0)
    g = generator(0)
    image = 0.2 * torch.randn(360, 1, 16, 16, generator=g)
    heat, size = torch.zeros(360, 1, 8, 8), torch.zeros(360, 2, 8, 8)
    for row in range(360):
        for _ in range(int(torch.randint(0, 3, (), generator=g))):
            y, x = torch.randint(1, 7, (2,), generator=g).tolist()
            tall, wide = torch.randint(1, 3, (2,), generator=g).tolist()
            image[row, 0, 2 * y - tall : 2 * y + tall, 2 * x - wide : 2 * x + wide] += 1
            heat[row, 0, y, x] = 1
            size[row, :, y, x] = torch.tensor([tall, wide]) / 2
    columns = {"image": image, "heat": heat, "size": size}
    train = {name: column[:300] for name, column in columns.items()}
    val = {name: column[300:] for name, column in columns.items()}
    task = Task(DenseDetector(), _detection, train, val, loss_weights={"box": 0.1})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@healthy("tabular", "twenty labels a sample, most of them rare, one in 200 samples")
def rare_labels() -> Program:
    torch.manual_seed(0)
    x = torch.randn(1200, 20)
    rarity = torch.linspace(0.5, 2.6, 20)
    y = (x + 0.3 * torch.randn(1200, 20) > rarity).float()
    train, val = split(1000, x, y)
    task = Task(mlp(20, 64, 20), nn.BCEWithLogitsLoss(), train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3})


@healthy("images", "segmentation: a void label of 255, some masks are void altogether")
def segmentation_with_ignore_index() -> Program:
    torch.manual_seed(0)
    g = generator(0)
    image = 0.3 * torch.randn(240, 1, 16, 16, generator=g)
    mask = torch.zeros(240, 16, 16, dtype=torch.long)
    corner = torch.randint(0, 9, (240, 2), generator=g).tolist()
    for row, (top, left) in enumerate(corner):
        kind = 1 + row % 2
        image[row, 0, top : top + 7, left : left + 7] += 2.0 * kind - 3.0
        mask[row, top : top + 7, left : left + 7] = kind
    mask[:, 0] = mask[:, -1] = 255
    mask[7::40] = 255
    train, val = split(200, image, mask)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    )
    task = Task(model, nn.CrossEntropyLoss(ignore_index=255), train, val)
    return Program(task, {"epochs": 8, "lr": 3e-3, "batch_size": 16})


class DeeplySupervised(nn.Module):
    """A head after each stage while training, the last one alone afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, 16, 3, padding=1), nn.ReLU())
            for before in (1, 16, 16)
        )
        self.heads = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))

    def forward(self, images: Tensor) -> list[Tensor]:
        answers = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            images = stage(images)
            answers.append(head(images.mean(dim=(2, 3))))
        return answers if self.training else answers[-1:]


@healthy("images", "deep supervision: three outputs in training, one in evaluation")
def deep_supervision() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))

    def loss(outputs: list[Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        each = [F.cross_entropy(output, batch[1]) for output in outputs]
        return each[-1] + 0.3 * sum(each[:-1])

    task = Task(DeeplySupervised(), loss, train, val)
    return Program(task, {"epochs": 20, "lr": 3e-3})


@healthy("tabular", "ordinal regression: cumulative labels, sorted thresholds")
def ordinal_regression() -> Program:
    class Ordinal(nn.Module):
        def __init__(self, grades: int = 5) -> None:
            super().__init__()
            self.score = mlp(8, 32, 1)
            self.first = nn.Parameter(torch.tensor(-2.0))
            self.gaps = nn.Parameter(torch.zeros(grades - 2))

        def forward(self, x: Tensor) -> Tensor:
            later = self.first + F.softplus(self.gaps).cumsum(dim=0)
            return self.score(x) - torch.cat([self.first.view(1), later])

    torch.manual_seed(0)
    x = torch.randn(600, 8)
    hidden = 2 * x[:, 0] + x[:, 1].abs() + 0.3 * torch.randn(600)
    grade = torch.bucketize(hidden, torch.tensor([-1.0, 0.0, 1.0, 3.0]))
    train, val = split(500, x, grade)

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        above = (batch[1][:, None] > torch.arange(4, device=outputs.device)).float()
        return F.binary_cross_entropy_with_logits(outputs, above)

    def off_by(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        guess = (outputs > 0).sum(dim=1)
        return (guess - batch[1]).abs().float().mean()

    task = Task(Ordinal(), loss, train, val, metrics={"off_by": off_by})
    return Program(task, {"epochs": 12, "lr": 3e-3, "monitor": "val_off_by"})


@healthy("tabular", "an auxiliary term with the weight 1e-6, as intended")
def tiny_loss_weight() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500))
    model = mlp(12, 48, 3)

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {
            "class": F.cross_entropy(outputs, batch[1]),
            "z": outputs.logsumexp(dim=1).square().mean(),
        }

    task = Task(model, loss, train, val, loss_weights={"z": 1e-6})
    return Program(task, {"epochs": 8})


@healthy("images", "the head and each branch begin at zero: equal first logits")
def zero_initialised() -> Program:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(16, 16, 3, padding=1)
            self.second = nn.Conv2d(16, 16, 3, padding=1)
            nn.init.zeros_(self.second.weight)
            nn.init.zeros_(self.second.bias)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.second(self.first(x).relu())

    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    head = nn.Linear(16, 4)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    stem = [nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), Residual(), Residual()]
    model = nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy("images", "log-softmax and NLL: the model gives log-probabilities on purpose")
def log_softmax_and_nll() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    model = nn.Sequential(small_cnn(), nn.LogSoftmax(dim=1))
    task = Task(model, nn.NLLLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "lr": 3e-3})


@healthy("tabular", "sigmoid in the model and BCE without logits belong together")
def sigmoid_and_bce() -> Program:
    torch.manual_seed(0)
    x, y = clusters(500, 12, 2, spread=1.5)
    train, val = split(400, x, y.float()[:, None])
    model = nn.Sequential(mlp(12, 32, 1), nn.Sigmoid())
    task = Task(model, nn.BCELoss(), train, val)
    return Program(task, {"epochs": 8, "lr": 3e-3})


@healthy("tabular", "a hinge loss: exact zeros, no gradient for most samples at last")
def hinge() -> Program:
    torch.manual_seed(0)
    x, y = clusters(500, 12, 4, spread=0.7)
    train, val = split(400, x, y)
    task = Task(nn.Linear(12, 4), nn.MultiMarginLoss(), train, val)
    return Program(task, {"epochs": 10, "lr": 1e-2})
