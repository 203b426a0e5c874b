"""Healthy: inputs and outputs of networks in rare forms."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_second import (
    accuracy,
    cut,
    dense,
    picture_net,
    spots,
)
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


@healthy(
    "arrays",
    "one picture as data: pixels are samples, coordinates the input, sines the "
    "activations with a factor of 20, and no validation since fitting is the goal",
)
def sine_network_of_one_picture() -> Program:
    torch.manual_seed(0)

    class Sine(nn.Module):
        def __init__(self, a: int, b: int, is_first: bool = False) -> None:
            super().__init__()
            self.linear = nn.Linear(a, b)
            bound = 1 / a if is_first else math.sqrt(6 / a) / 20
            nn.init.uniform_(self.linear.weight, -bound, bound)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(20 * self.linear(x))

    grid = torch.linspace(-1, 1, 24)
    at = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).view(-1, 2)
    grey = (
        torch.sin(6 * at[:, :1]) * torch.cos(9 * at[:, 1:])
        + (at.norm(dim=1) < 0.5)[:, None]
    )
    model = nn.Sequential(Sine(2, 48, True), Sine(48, 48), nn.Linear(48, 1))
    task = Task(model, nn.MSELoss(), (at, grey))
    return Program(task, {"epochs": 40, "lr": 1e-3, "batch_size": 64})


@healthy(
    "text",
    "bags of words of any length as one flat list with offsets: the first array of the "
    "batch is longer than the batch, and an empty bag is allowed",
)
def bags_with_offsets() -> Program:
    torch.manual_seed(0)
    weight = torch.randn(80, 3)

    def bags(count: int) -> list[tuple[Tensor, Tensor]]:
        out = []
        for length in torch.randint(0, 15, (count,)).tolist():
            ids = torch.randint(80, (length,))
            out.append((ids, (weight[ids].sum(0) + torch.tensor([0.3, 0, 0])).argmax()))
        return out

    def collate(rows: list[Pair]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(ids) for ids, _ in rows])
        starts = F.pad(lengths.cumsum(0)[:-1], (1, 0))
        return {
            "label": torch.stack([y for _, y in rows]),
            "ids": torch.cat([ids for ids, _ in rows]),
            "offsets": starts,
        }

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.EmbeddingBag(80, 16, mode="sum")
            self.head = nn.Linear(16, 3)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.head(self.words(batch["ids"], batch["offsets"]))

    task = Task(
        Bag(),
        lambda outputs, batch: F.cross_entropy(outputs, batch["label"]),
        bags(600),
        bags(150),
        collate=collate,
        count_targets=lambda batch: len(batch["label"]),
    )
    return Program(task, {"epochs": 20, "lr": 1e-2})


@healthy(
    "text",
    "adaptive softmax over 2 000 words: the network gets the targets, and returns the "
    "loss itself; most of its last cluster is rarely reached",
)
def adaptive_softmax() -> Program:
    torch.manual_seed(0)
    words = 2000
    ranks = (torch.rand(900, 9).pow(4) * 200).long()
    ids = ranks.clone()
    ids[:, 1:] = torch.where(
        torch.rand(900, 8) < 0.8, (ranks[:, :-1] * 7 + 3) % words, ranks[:, 1:]
    )

    class LM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(words, 32)
            self.net = dense(32, 64, 48)
            self.out = nn.AdaptiveLogSoftmaxWithLoss(48, words, [100, 600])

        def forward(self, batch: Pair) -> Any:
            h = self.net(self.embed(batch[0]))
            return self.out(h.flatten(0, 1), batch[1].flatten())

    task = Task(
        LM(),
        lambda outputs, batch: outputs.loss,
        (ids[:700, :-1], ids[:700, 1:]),
        (ids[700:, :-1], ids[700:, 1:]),
        forward=lambda model, batch: model(batch),
    )
    return Program(task, {"epochs": 12, "lr": 5e-3})


@healthy(
    "tabular",
    "one parameter in all: a temperature for logits of a network trained elsewhere",
)
def temperature_scaling() -> Program:
    torch.manual_seed(0)
    truth = torch.randn(800, 5)
    y = torch.distributions.Categorical(logits=1.3 * truth).sample()

    class Temperature(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_t = nn.Parameter(torch.zeros(()))

        def forward(self, logits: Tensor) -> Tensor:
            return logits / self.log_t.exp()

    train, val = cut(600, 5 * truth, y)
    task = Task(Temperature(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 15, "lr": 3e-2, "weight_decay": 0.0})


@healthy(
    "arrays",
    "sets without order: a sum over elements, sizes from 1 to 12, numbers that add up "
    "to targets of different size",
)
def deep_sets() -> Program:
    torch.manual_seed(0)

    def sets(count: int) -> list[dict[str, Tensor]]:
        out = []
        for size in torch.randint(1, 13, (count,)).tolist():
            x = torch.randn(size, 3)
            y = (x[:, 0] * x[:, 1]).sum() + x[:, 2].max()
            out.append({"x": x, "y": y})
        return out

    def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        owner = torch.cat([torch.full((len(r["x"]),), n) for n, r in enumerate(rows)])
        return {
            "y": torch.stack([r["y"] for r in rows]),
            "x": torch.cat([r["x"] for r in rows]),
            "owner": owner,
        }

    class DeepSets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = dense(3, 48, 32), dense(32, 48, 1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            total = torch.zeros(len(batch["y"]), 32)
            total = total.index_add(0, batch["owner"], self.each(batch["x"]))
            return self.all(total).squeeze(1)

    task = Task(
        DeepSets(),
        lambda outputs, batch: F.smooth_l1_loss(outputs, batch["y"]),
        sets(600),
        sets(150),
        collate=collate,
        count_targets=lambda batch: len(batch["y"]),
    )
    return Program(task, {"epochs": 25, "lr": 5e-3})


@healthy(
    "images",
    "training returns logits and an auxiliary head's, evaluation logits alone; the "
    "loss takes both forms",
)
def outputs_differ_by_mode() -> Program:
    torch.manual_seed(0)

    class TwoExits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU())
            self.body = nn.Sequential(
                nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
            )
            self.early = nn.Sequential(
                nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)
            )
            self.head = nn.Linear(128, 4)

        def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
            h = self.stem(x)
            logits = self.head(self.body(h))
            return {"logits": logits, "aux": self.early(h)} if self.training else logits

    def loss(outputs: Any, batch: Pair) -> Tensor:
        if isinstance(outputs, dict):
            aux = F.cross_entropy(outputs["aux"], batch[1])
            return F.cross_entropy(outputs["logits"], batch[1]) + 0.3 * aux
        return F.cross_entropy(outputs, batch[1])

    def acc(outputs: Any, batch: Pair) -> float:
        return accuracy(
            outputs["logits"] if isinstance(outputs, dict) else outputs, batch
        )

    x, y = spots(400)
    train, val = cut(300, 2 * x - 1, y)
    return Program(
        Task(TwoExits(), loss, train, val, metrics={"acc": acc}),
        {"epochs": 12, "lr": 5e-3},
    )


@healthy(
    "images",
    "bytes as they are: uint8 pictures are scaled inside the network by buffers, and "
    "labels are int32",
)
def bytes_scaled_inside() -> Program:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer(
                "mean", torch.tensor([123.0, 116.0, 103.0]).view(3, 1, 1)
            )
            self.net = picture_net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x.float() - self.mean) / 58)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        return F.cross_entropy(outputs, batch[1].long())

    x, y = spots(400)
    train, val = cut(300, (255 * x).to(torch.uint8), y.int())
    task = Task(Net(), loss, train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 6, "lr": 2e-3})


@healthy(
    "images",
    "a fully convolutional network: validation pictures are larger than training crops",
)
def larger_in_validation() -> Program:
    torch.manual_seed(0)
    x, y = spots(380, size=24)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5),
        nn.ReLU(),
        nn.Conv2d(16, 24, 5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 4),
    )
    train, val = cut(300, x, y)
    crops = train[0][:, :, 4:20, 4:20]
    task = Task(
        model, nn.CrossEntropyLoss(), (crops, train[1]), val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


@healthy(
    "sequences",
    "a point process: event times of any number per sample, padded; the loss is a "
    "compensator minus log-intensities and may be negative",
)
def hawkes_process() -> Program:
    torch.manual_seed(0)

    def histories(count: int) -> dict[str, Tensor]:
        times, mask = torch.full((count, 30), 10.0), torch.zeros(count, 30)
        for row in range(count):
            t, found = 0.0, []
            while len(found) < 30:
                peak = 0.8 + 1.2 * sum(math.exp(-2 * (t - s)) for s in found)
                t += float(torch.empty(()).exponential_(peak))
                if t > 10:
                    break
                now = 0.8 + 1.2 * sum(math.exp(-2 * (t - s)) for s in found)
                if float(torch.rand(())) < now / peak:
                    found.append(t)
            times[row, : len(found)] = torch.tensor(found)
            mask[row, : len(found)] = 1
        return {"times": times, "mask": mask}

    class Hawkes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raw = nn.Parameter(torch.tensor([-2.0, -3.0, 0.0]))

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            base, jump, decay = F.softplus(self.raw)
            t, mask = batch["times"], batch["mask"]
            gap = t[:, :, None] - t[:, None]
            before = (gap > 0).float() * mask[:, None]
            kicks = (jump * torch.exp(-decay * gap.clamp(min=0)) * before).sum(2)
            rest = (mask * (1 - torch.exp(-decay * (10 - t)))).sum(1)
            return {
                "log": torch.log(base + kicks),
                "total": 10 * base + jump / decay * rest,
            }

    def loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return (outputs["total"] - (outputs["log"] * batch["mask"]).sum(1)).mean()

    task = Task(Hawkes(), loss, histories(160), histories(60))
    return Program(task, {"epochs": 20, "lr": 3e-2, "weight_decay": 0.0})
