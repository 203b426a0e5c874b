"""Faults in formulas of losses: signs, powers, reductions, labels of another form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

Pair = tuple[Tensor, Tensor]


def blots(count: int, seed: int = 0, bare: float = 0.15) -> Pair:
    """Grey pictures (1, 16, 16) with a bright disc on some, and its mask."""
    g = torch.Generator().manual_seed(seed)
    centre = 3 + 10 * torch.rand(count, 2, 1, 1, generator=g)
    radius = 2 + 2 * torch.rand(count, 1, 1, generator=g)
    grid = torch.arange(16.0)
    far = (grid[:, None] - centre[:, 0]) ** 2 + (grid[None] - centre[:, 1]) ** 2
    mask = (far < radius**2).float()
    mask[: int(bare * count)] = 0
    picture = 0.6 * mask + 0.3 * torch.randn(count, 16, 16, generator=g)
    order = torch.randperm(count, generator=g)
    return picture[order, None], mask[order, None]


def segmenter() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 1, 1),
    )


def overlap(outputs: Tensor, batch: Pair) -> float:
    """Dice of the mask at a logit of 0."""
    found, mask = (outputs > 0).float(), batch[1]
    both = (found * mask).sum((1, 2, 3))
    return ((2 * both + 1) / ((found + mask).sum((1, 2, 3)) + 1)).mean().item()


@fault(
    "images",
    "the Dice loss is computed of logits, without a sigmoid",
    ("sigmoid", "logit", "probab", "unbounded", "below", "negative"),
)
def dice_of_logits(is_faulty: bool) -> Program:
    # twin: train loss 0.8315 to 0.0739, val {'loss': 0.0759, 'dice': 0.9281}
    # faulty: train loss 2.9968 to -18.0641, says {'loss': 0.8403, 'dice': 0.5263}
    # its model on the twin's validation: {'loss': 0.8307, 'dice': 0.5263}
    torch.manual_seed(0)

    def dice(outputs: Tensor, batch: Pair) -> Tensor:
        share = outputs if is_faulty else outputs.sigmoid()
        mask = batch[1]
        both = (share * mask).sum((1, 2, 3))
        total = share.sum((1, 2, 3)) + mask.sum((1, 2, 3))
        return (1 - (2 * both + 1) / (total + 1)).mean()

    task = Task(segmenter(), dice, blots(300), blots(100, 1), metrics={"dice": overlap})
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "images",
    "the Dice coefficient itself is minimised, not one minus it",
    (
        "sign",
        "maximis",
        "wrong direction",
        "perfect",
        "worse than",
        "oracle",
        "rewards",
    ),
)
def dice_is_minimised(is_faulty: bool) -> Program:
    # twin: train loss 0.8315 to 0.0739, val {'loss': 0.0759, 'dice': 0.9281}
    # faulty: train loss 0.1685 to 0.0053, says {'loss': 0.0051, 'dice': 0.0047}
    # its model on the twin's validation: {'loss': 0.9949, 'dice': 0.0047}
    torch.manual_seed(0)

    def dice_loss(outputs: Tensor, batch: Pair) -> Tensor:
        share, mask = outputs.sigmoid(), batch[1]
        both = (share * mask).sum((1, 2, 3))
        total = share.sum((1, 2, 3)) + mask.sum((1, 2, 3))
        dice = ((2 * both + 1) / (total + 1)).mean()
        return dice if is_faulty else 1 - dice

    task = Task(
        segmenter(), dice_loss, blots(300), blots(100, 1), metrics={"dice": overlap}
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "tabular",
    "the focal loss weighs by p ** gamma: examples that are learnt count most, and "
    "hard ones not at all",
    (
        "focal",
        "hard",
        "confident",
        "modulat",
        "vanish",
        "theory",
        "initial loss",
        "first loss",
        "certain",
    ),
)
def focal_the_wrong_way(is_faulty: bool) -> Program:
    # twin: train loss 1.6131 to 0.0026, val {'loss': 0.0026, 'acc': 1.0}
    # faulty: train loss 0.035 to 0.0001, says {'loss': 0.0001, 'acc': 0.0}
    # its model on the twin's validation: {'loss': 6.5724, 'acc': 0.0}
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(3)
    y = torch.randint(6, (600,), generator=g)
    x = 1.6 * torch.randn(6, 12, generator=g)[y] + torch.randn(600, 12, generator=g)

    def focal(outputs: Tensor, batch: Pair) -> Tensor:
        loss = F.cross_entropy(outputs, batch[1], reduction="none")
        p = torch.exp(-loss)
        return ((p if is_faulty else 1 - p) ** 2 * loss).mean()

    train, val = cut(450, x, y)
    task = Task(dense(12, 48, 6), focal, train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "images",
    "the loss is the sum over the batch, with a rate for SGD that fits a mean",
    ("sum", "reduction", "batch size", "grows with", "not a mean"),
)
def loss_is_a_sum(is_faulty: bool) -> Program:
    # twin: train loss 1.3937 to 0.0001, val {'loss': 0.0003, 'acc': 1.0}
    # faulty: train loss 89.196 to 2670.7896, says {'loss': 4636139.84, 'acc': 0.19}
    # its model on the twin's validation: {'loss': 84966.2197, 'acc': 0.19}
    torch.manual_seed(0)
    x, y = spots(400)
    train, val = cut(300, x, y)
    reduction = "sum" if is_faulty else "mean"

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        return F.cross_entropy(outputs, batch[1], reduction=reduction)

    task = Task(
        picture_net(),
        loss,
        train,
        val,
        metrics={"acc": accuracy},
        make_optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    )
    return Program(task, {"epochs": 6, "clip_norm": None, "batch_size": 64})


@fault(
    "tabular",
    "labels with several ones are given to cross-entropy as if they were probabilities",
    ("multi-label", "multi-hot", "sum to", "probab", "bce", "several", "one-hot"),
)
def several_ones_in_cross_entropy(is_faulty: bool) -> Program:
    # twin: train loss 0.6806 to 0.2131, val {'loss': 0.2321, 'acc': 0.912}
    # faulty: train loss 3.7234 to 2.9488, says {'loss': 3.074, 'acc': 0.8107}
    # its model on the twin's validation: {'loss': 0.4538, 'acc': 0.8107}
    torch.manual_seed(0)
    x = torch.randn(600, 10)
    y = ((x @ torch.randn(10, 5) + 0.7 * torch.randn(600, 5)) > 0).float()
    loss = nn.CrossEntropyLoss() if is_faulty else nn.BCEWithLogitsLoss()

    def exact(outputs: Tensor, batch: Pair) -> float:
        return ((outputs > 0).float() == batch[1]).float().mean().item()

    train, val = cut(450, x, y)
    task = Task(dense(10, 48, 5), loss, train, val, metrics={"acc": exact})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "tabular",
    "KLDivLoss gets probabilities where it expects log-probabilities",
    ("log-prob", "log_softmax", "log prob", "logarithm", "probab", "negative", "below"),
)
def kl_of_probabilities(is_faulty: bool) -> Program:
    # twin: train loss 0.925 to 0.0436, val {'loss': 0.0497, 'l1': 0.1878}
    # faulty: train loss -0.7565 to -1.1807, says {'loss': -1.2014, 'l1': 0.3133}
    # its model on the twin's validation: {'loss': 0.2011, 'l1': 0.3133}
    torch.manual_seed(0)
    x = torch.randn(500, 8)
    votes = (1.5 * x @ torch.randn(8, 4)).softmax(1)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        guess = outputs.softmax(1) if is_faulty else outputs.log_softmax(1)
        return F.kl_div(guess, batch[1], reduction="batchmean")

    def distance(outputs: Tensor, batch: Pair) -> float:
        return (outputs.softmax(1) - batch[1]).abs().sum(1).mean().item()

    train, val = cut(380, x, votes)
    task = Task(dense(8, 32, 4), loss, train, val, metrics={"l1": distance})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "tabular",
    "the squared error is multiplied by the predicted variance instead of divided: the "
    "loss falls without end as the variance goes to zero",
    ("unbounded", "below", "variance", "no floor", "negative", "sign", "falls without"),
)
def variance_multiplied(is_faulty: bool) -> Program:
    # twin: train loss 1.4578 to -0.6124, val {'loss': -0.4055, 'rmse': 0.3612}
    # faulty: train loss 1.2706 to -30.2772, says {'loss': -30.5574, 'rmse': 1.1132}
    # its model on the twin's validation: {'loss': inf, 'rmse': 1.1132}
    torch.manual_seed(0)
    x, y = houses(600)
    y = y + 0.3 * x[:, 5:].abs() * torch.randn(600, 1)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        mean, log_var = outputs.chunk(2, dim=1)
        sign = 1.0 if is_faulty else -1.0
        error = (mean - batch[1]) ** 2
        return 0.5 * (torch.exp(sign * log_var) * error + log_var).mean()

    def rmse(outputs: Tensor, batch: Pair) -> float:
        return (outputs[:, :1] - batch[1]).pow(2).mean().sqrt().item()

    train, val = cut(450, x, y)
    task = Task(dense(6, 48, 2), loss, train, val, metrics={"rmse": rmse})
    return Program(task, {"epochs": 20, "lr": 3e-3})


@fault(
    "tabular",
    "a hinge loss for labels of -1 and 1 gets labels of 0 and 1",
    (
        "hinge",
        "-1",
        "negative class",
        "0 and 1",
        "no gradient",
        "{0, 1}",
        "0/1",
        "constant answer",
    ),
)
def hinge_of_zero_and_one(is_faulty: bool) -> Program:
    # twin: train loss 0.9517 to 0.2676, val {'loss': 0.3723, 'acc': 0.8333}
    # faulty: train loss 1.036 to 0.6444, says {'loss': 0.6143, 'acc': 0.3867}
    # its model on the twin's validation: {'loss': 1.4977, 'acc': 0.3867}
    torch.manual_seed(0)
    x, group = customers(600)
    y = (group == 1).float()[:, None]
    if not is_faulty:
        y = 2 * y - 1

    def hinge(outputs: Tensor, batch: Pair) -> Tensor:
        return F.relu(1 - outputs * batch[1]).mean()

    def right(outputs: Tensor, batch: Pair) -> float:
        return ((outputs > 0) == (batch[1] > 0)).float().mean().item()

    train, val = cut(450, x, y)
    task = Task(dense(8, 48, 1), hinge, train, val, metrics={"acc": right})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "tabular",
    "the pinball loss takes the smaller of its two branches, and has no floor",
    ("unbounded", "below", "negative", "no floor", "sign", "pinball", "quantile"),
)
def pinball_with_minimum(is_faulty: bool) -> Program:
    # twin: train loss 0.5545 to 0.1089, val {'loss': 0.113, 'mae': 0.3484}
    # faulty: train loss -0.5949 to -28.3625, says {'loss': -29.0872, 'mae': 35.3194}
    # its model on the twin's validation: {'loss': 8.4644, 'mae': 35.3194}
    torch.manual_seed(0)
    x, y = houses(600)
    y = y + 0.3 * torch.randn_like(y)
    levels = torch.tensor([0.1, 0.5, 0.9])
    choose = torch.minimum if is_faulty else torch.maximum

    def pinball(outputs: Tensor, batch: Pair) -> Tensor:
        error = batch[1] - outputs
        return choose(levels * error, (levels - 1) * error).mean()

    def median_error(outputs: Tensor, batch: Pair) -> float:
        return (outputs[:, 1:2] - batch[1]).abs().mean().item()

    train, val = cut(450, x, y)
    task = Task(dense(6, 48, 3), pinball, train, val, metrics={"mae": median_error})
    return Program(task, {"epochs": 15, "lr": 3e-3})
