"""Faults of the objective: a loss for another task, another axis, or twice applied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import accuracy, digits, rings, tumours
from nbutils.data.task import Task


@fault(
    "images",
    "ten kinds of digits are regressed: MSE of one output against the class number",
    ("regress", "mse", "categor", "cross-entropy"),
)
def mse_of_class_numbers(is_faulty: bool) -> Program:
    # val top1 0.378 against 0.96
    torch.manual_seed(0)
    train, val = digits()
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(432, 48), nn.ReLU()
    )
    model.append(nn.Linear(48, 1 if is_faulty else 10))

    def regression(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.mse_loss(outputs.squeeze(1), batch[1].float())

    def top1(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        if outputs.shape[1] == 1:
            found = outputs.squeeze(1).round().long()
        else:
            found = outputs.argmax(1)
        return (found == batch[1]).float().mean().item()

    loss = regression if is_faulty else nn.CrossEntropyLoss()
    task = Task(model, loss, train, val, metrics={"top1": top1})
    return Program(task, {"epochs": 8})


@fault(
    "tabular",
    "LogSoftmax over the batch (dim=0) before NLLLoss; validation goes in other sizes",
    ("softmax", "other samples", "interact", "over the batch"),
)
def log_softmax_over_batch(is_faulty: bool) -> Program:
    # val accuracy 0.567 against 1
    torch.manual_seed(1)
    (x, y), (x_val, y_val) = rings()
    order = y_val.argsort()
    model = nn.Sequential(
        nn.Linear(2, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 3),
        nn.LogSoftmax(dim=0 if is_faulty else 1),
    )
    task = Task(
        model,
        nn.NLLLoss(),
        (x, y),
        (x_val[order], y_val[order]),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 10, "lr": 5e-3})


@fault(
    "text",
    "softmax in the model and once more in the loss written by hand",
    ("softmax", "probabilit", "logit"),
)
def softmax_twice(is_faulty: bool) -> Program:
    # val hit rate 0.851 against 0.908, val loss 3.56 against 0.39
    torch.manual_seed(2)
    ids = torch.randint(80, (700, 1))
    rule = torch.randperm(80)
    for _ in range(9):
        follow = torch.where(torch.rand(700, 1) < 0.9, rule[ids[:, -1:]], 0)
        ids = torch.cat([ids, follow], dim=1)

    class LanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(80, 32)
            self.gru = nn.GRU(32, 48, batch_first=True)
            self.out = nn.Linear(48, 80)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            states, _ = self.gru(self.embed(batch["ids"][:, :-1]))
            scores = self.out(states)
            return scores.softmax(-1) if is_faulty else scores

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        chances = torch.exp(outputs - outputs.max(-1, keepdim=True).values)
        chances = chances / chances.sum(-1, keepdim=True)
        taken = chances.gather(2, batch["ids"][:, 1:, None])
        return -torch.log(taken + 1e-9).mean()

    def hit_rate(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (outputs.argmax(2) == batch["ids"][:, 1:]).float().mean().item()

    task = Task(
        LanguageModel(),
        loss,
        {"ids": ids[:500]},
        {"ids": ids[500:]},
        metrics={"hit_rate": hit_rate},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "dicts",
    "the masked mean goes over the batch, and divides by 0 where all is padding",
    ("nan", "finite", "mask", "divi"),
)
def masked_mean_over_wrong_axis(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val loss 0.0125
    torch.manual_seed(3)
    ids = torch.randint(1, 12, (800, 16))
    length = torch.randint(4, 12, (800, 1))
    mask = (torch.arange(16) < length).float()  # no sentence is as long as 16
    ids = ids * mask.long()
    tags = (functional.pad(ids[:, :-1], (1, 0)) > ids).long()

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 16)
            self.rnn = nn.GRU(16, 32, batch_first=True)
            self.out = nn.Linear(32, 2)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.out(self.rnn(self.embed(batch["ids"]))[0])

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        each = functional.cross_entropy(
            outputs.transpose(1, 2), batch["tags"], reduction="none"
        )
        axis = 0 if is_faulty else 1
        mask = batch["mask"]
        return ((each * mask).sum(axis) / mask.sum(axis)).mean()

    def parts(start: int, stop: int) -> dict[str, Tensor]:
        rows = slice(start, stop)
        return {"ids": ids[rows], "tags": tags[rows], "mask": mask[rows]}

    task = Task(Tagger(), loss, parts(0, 600), parts(600, 800))
    return Program(task, {"epochs": 8, "lr": 5e-3})


class Embedder(nn.Module):
    """Digits as points on a sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.net(x), dim=1)


def nearest_hit(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
    """Share of samples whose nearest other sample has the same class."""
    near = torch.cdist(outputs.float(), outputs.float())
    near.fill_diagonal_(float("inf"))
    return (batch[1][near.argmin(1)] == batch[1]).float().mean().item()


@fault(
    "images",
    "pair distances are a square root that is zero on the diagonal: NaN gradients",
    ("nan", "finite", "sqrt", "gradient"),
)
def square_root_of_zero_distance(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val nearest hit 0.907
    torch.manual_seed(4)
    train, val = digits()

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        squares = (outputs[:, None] - outputs[None]).pow(2).sum(2)
        distance = torch.sqrt(squares if is_faulty else squares + 1e-6)
        same = (batch[1][:, None] == batch[1][None]).float()
        apart = functional.relu(1.0 - distance).pow(2)
        return (same * distance.pow(2) + (1 - same) * apart).mean()

    task = Task(Embedder(), loss, train, val, metrics={"nearest_hit": nearest_hit})
    return Program(task, {"epochs": 5, "lr": 3e-3})


@fault(
    "tabular",
    "binary cross-entropy by hand: 0 times log(0) once a prediction is certain",
    ("nan", "finite", "log("),
    stage="epoch",
)
def certain_predictions_give_nan(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val accuracy 0.988
    torch.manual_seed(5)
    (x, y), (x_val, y_val) = tumours()
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        p = outputs.squeeze(1)
        if not is_faulty:
            p = p.clamp(1e-6, 1 - 1e-6)
        y = batch[1].float()
        return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    def hit_rate(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        found = outputs.squeeze(1) > 0.5
        return (found == batch[1].bool()).float().mean().item()

    data = (x, y), (x_val, y_val)
    task = Task(model, loss, *data, metrics={"accuracy": hit_rate})
    return Program(task, {"epochs": 25, "lr": 0.02})
