"""Healthy: data that is simulated, ordered, sparse, padded or of any length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from gallery.case import Program, healthy
from gallery.data_second import accuracy, cut, dense
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


class Simulated(Dataset):
    """Pendulums that are simulated when asked for: no two epochs see the same."""

    def __len__(self) -> int:
        return 320

    def __getitem__(self, index: int) -> Pair:
        length = 0.5 + torch.rand(())
        time = torch.arange(40) / 10
        swing = torch.cos(torch.sqrt(9.81 / length) * time + 6.28 * torch.rand(()))
        return swing + 0.05 * torch.randn(40), length[None]


@healthy(
    "sequences",
    "training samples are simulated on the fly, so that index 0 is another sample each "
    "time; validation is a fixed list of them",
)
def simulated_on_the_fly() -> Program:
    torch.manual_seed(0)
    source = Simulated()
    val = [source[n] for n in range(80)]
    task = Task(dense(40, 64, 1), nn.MSELoss(), source, val)
    return Program(task, {"epochs": 25, "lr": 3e-3})


class Curriculum(IterableDataset):
    """Sums of more and more numbers; short ones come first in each pass."""

    def __init__(self, count: int, longest: int, seed: int) -> None:
        self.count, self.longest, self.seed = count, longest, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Pair]:
        g = torch.Generator().manual_seed(self.seed)
        for n in range(self.count):
            filled = 2 + n * (self.longest - 1) // self.count
            x = torch.zeros(self.longest)
            x[:filled] = torch.randn(filled, generator=g)
            yield x, (x[:-1] * x[1:]).sum()[None] / 2


@healthy(
    "sequences",
    "a stream in the order of difficulty: its first batches are not like the last, and "
    "each pass is the same on purpose",
)
def curriculum() -> Program:
    torch.manual_seed(0)
    val = [pair for n, pair in enumerate(Curriculum(640, 8, 8)) if n % 6 == 0]
    model = dense(8, 96, 96, 1)
    task = Task(model, nn.MSELoss(), Curriculum(640, 8, 7), val)
    return Program(task, {"epochs": 25, "lr": 3e-3})


@healthy(
    "tabular",
    "words counted: 400 columns of small whole numbers, most of them zero, some "
    "constant in training, and a linear layer with an L1 penalty",
)
def sparse_counts() -> Program:
    torch.manual_seed(0)
    topic = torch.randint(3, (500,))
    rate = 0.02 * torch.ones(3, 400)
    for k in range(3):
        rate[k, 30 * k : 30 * k + 30] = 0.4
    rate[:, 390:] = 0
    x = torch.poisson(rate[topic])
    model = nn.Linear(400, 3)

    def loss(outputs: Tensor, batch: Pair) -> dict[str, Tensor]:
        return {
            "ce": F.cross_entropy(outputs, batch[1]),
            "l1": model.weight.abs().sum(),
        }

    train, val = cut(380, x, topic)
    task = Task(
        model, loss, train, val, metrics={"acc": accuracy}, loss_weights={"l1": 1e-3}
    )
    return Program(task, {"epochs": 15, "lr": 1e-2})


@healthy(
    "dicts",
    "codes of shops with a row for unknown ones that no training sample uses, and "
    "entity names as strings in each sample",
)
def row_for_unknown_codes() -> Program:
    torch.manual_seed(0)
    effect = torch.randn(21)

    def sales(count: int, with_unknown: bool) -> list[dict[str, Any]]:
        out = []
        for n in range(count):
            code = int(torch.randint(1, 21, ()))
            x = torch.randn(3)
            y = effect[code] + x[0] * x[1] + 0.1 * torch.randn(())
            if with_unknown and n % 25 == 0:
                code = 0
            out.append({"name": f"shop {code}", "code": code, "x": x, "y": y})
        return out

    class Shops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes, self.net = nn.Embedding(21, 8), dense(11, 48, 1)

        def forward(self, batch: dict[str, Any]) -> Tensor:
            return self.net(
                torch.cat([self.codes(batch["code"]), batch["x"]], 1)
            ).squeeze(1)

    task = Task(
        Shops(),
        lambda outputs, batch: F.huber_loss(outputs, batch["y"]),
        sales(600, False),
        sales(150, True),
    )
    return Program(task, {"epochs": 15, "lr": 5e-3})


@healthy(
    "arrays",
    "bags of 2 to 15 instances with a label for the bag alone; the batch is a list of "
    "arrays of different height, and attention tells which instance counts",
)
def multiple_instances() -> Program:
    torch.manual_seed(0)

    def bags(count: int) -> list[Pair]:
        out = []
        for n in range(count):
            bag = torch.randn(int(torch.randint(2, 16, ())), 6)
            if n % 2:
                bag[0, :2] += 3.5
            out.append((bag[torch.randperm(len(bag))], torch.tensor(float(n % 2))))
        return out

    def collate(rows: list[Pair]) -> tuple[list[Tensor], Tensor]:
        return [bag for bag, _ in rows], torch.stack([y for _, y in rows])

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.score = dense(6, 32, 16), dense(16, 16, 1)
            self.head = nn.Linear(16, 1)

        def forward(self, bags: list[Tensor]) -> Tensor:
            out = []
            for bag in bags:
                h = self.each(bag).relu()
                out.append((self.score(h).softmax(0) * h).sum(0))
            return self.head(torch.stack(out)).squeeze(1)

    task = Task(
        Attention(),
        lambda outputs, batch: F.binary_cross_entropy_with_logits(outputs, batch[1]),
        bags(300),
        bags(100),
        collate=collate,
        count_targets=lambda batch: len(batch[1]),
        metrics={"acc": lambda o, b: ((o > 0).float() == b[1]).float().mean().item()},
    )
    return Program(task, {"epochs": 15, "lr": 5e-3})


@healthy(
    "graphs",
    "molecules as padded dense adjacencies with a node mask: rows of padding are zero "
    "in and out, and a mean counts real atoms only",
)
def dense_padded_graphs() -> Program:
    torch.manual_seed(0)

    def graphs(count: int) -> dict[str, Tensor]:
        sizes = torch.randint(5, 13, (count,))
        mask = (torch.arange(12) < sizes[:, None]).float()
        link = torch.rand(count, 12, 12) < 0.1 + 0.3 * torch.rand(count, 1, 1)
        adjacency = (
            (link | link.transpose(1, 2)).float() * mask[:, None] * mask[:, :, None]
        )
        kind = torch.randint(4, (count, 12))
        x = F.one_hot(kind, 4).float() * mask[..., None]
        pairs = x.transpose(1, 2) @ adjacency @ x
        y = (pairs[:, 0, 1] - pairs[:, 2, 3]) / sizes
        return {"x": x, "adjacency": adjacency, "mask": mask, "y": y}

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.near = nn.Linear(4, 32), nn.Linear(4, 32, bias=False)
            self.out = dense(32, 32, 1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            mask = batch["mask"][..., None]
            h = F.relu(
                self.own(batch["x"]) + self.near(batch["adjacency"] @ batch["x"])
            )
            return self.out((h * mask).sum(1) / mask.sum(1)).squeeze(1)

    task = Task(Dense(), lambda o, b: F.mse_loss(o, b["y"]), graphs(500), graphs(120))
    return Program(task, {"epochs": 20, "lr": 5e-3})


class Masked(nn.Linear):
    """A linear layer with a fixed mask on its weights."""

    def __init__(self, a: int, b: int, mask: Tensor) -> None:
        super().__init__(a, b)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


@healthy(
    "arrays",
    "MADE: masks cut half of all weights for ever, the first output depends on no "
    "input, and the input is the target",
)
def masked_density_of_bits() -> Program:
    torch.manual_seed(0)
    hidden = torch.rand(600, 2)
    x = torch.zeros(600, 12)
    x[:, 0] = (hidden[:, 0] < 0.5).float()
    for bit in range(1, 12):
        stay = torch.rand(600) < (0.9 if bit % 3 else 0.6)
        x[:, bit] = torch.where(stay, x[:, bit - 1], 1 - x[:, bit - 1])
    place, unit = torch.arange(12), torch.arange(64) % 11
    first = (unit[:, None] >= place[None]).float()
    last = (place[:, None] > unit[None]).float()
    model = nn.Sequential(Masked(12, 64, first), nn.ReLU(), Masked(64, 12, last))

    def loss(outputs: Tensor, batch: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(outputs, batch, reduction="none")
        return each.sum(1).mean()

    train, val = list(x[:450]), list(x[450:])
    task = Task(model, loss, train, val, forward=lambda m, b: m(b))
    return Program(task, {"epochs": 20, "lr": 5e-3})


@healthy(
    "images",
    "movement without labels: one frame is warped on the next, and the loss is how far "
    "both are apart plus how rough the flow is",
)
def unsupervised_flow() -> Program:
    torch.manual_seed(0)
    noise = F.avg_pool2d(torch.randn(260, 1, 40, 40), 5, 1, 2) * 3
    step = torch.randint(-2, 3, (260, 2))
    one = noise[:, :, 8:32, 8:32]
    two = torch.stack(
        [
            f[:, 8 + i : 32 + i, 8 + j : 32 + j]
            for f, (i, j) in zip(noise, step.tolist(), strict=True)
        ]
    )

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(2, 24, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(24, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(128, 2),
            )
            axis = torch.linspace(-1, 1, 24)
            self.register_buffer(
                "grid", torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
            )

        def forward(self, batch: Pair) -> dict[str, Tensor]:
            move = self.net(torch.cat(batch, 1))
            grid = self.grid + move[:, None, None] / 6
            return {
                "warped": F.grid_sample(
                    batch[1], grid, align_corners=True, padding_mode="border"
                ),
                "move": move,
            }

    def loss(outputs: dict[str, Tensor], batch: Pair) -> dict[str, Tensor]:
        apart = torch.sqrt((outputs["warped"] - batch[0]) ** 2 + 1e-4).mean()
        return {"apart": apart, "size": outputs["move"].square().mean()}

    train, val = cut(200, one, two)
    task = Task(
        Flow(), loss, train, val, forward=lambda m, b: m(b), loss_weights={"size": 1e-3}
    )
    return Program(task, {"epochs": 20, "lr": 3e-3})
