"""Faults in attention: its positions, scores and masks."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_second import (
    accuracy,
    cut,
    dense,
)
from nbutils.data.task import Task


class Positions(nn.Module):
    """The sine and cosine table of the first transformer."""

    def __init__(self, width: int, along_batch: bool, longest: int = 512) -> None:
        super().__init__()
        at = torch.arange(longest)[:, None]
        speed = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        table = torch.zeros(longest, 1, width)
        table[:, 0, 0::2], table[:, 0, 1::2] = (
            torch.sin(at * speed),
            torch.cos(at * speed),
        )
        self.register_buffer("table", table)
        self.along_batch = along_batch

    def forward(self, x: Tensor) -> Tensor:
        if self.along_batch:
            return x + self.table[: x.size(0)]
        return x + self.table[: x.size(1)].transpose(0, 1)


class Reader(nn.Module):
    """A transformer over ids, batch first, mean-pooled."""

    def __init__(self, words: int, classes: int, along_batch: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 32)
        self.positions = Positions(32, along_batch)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layers(self.positions(self.embed(ids))).mean(1))


@fault(
    "text",
    "the table of positions, written for time first, is added along the batch: a "
    "text's place in the batch is encoded, and the order of its words is not",
    (
        "position",
        "leak",
        "interact",
        "each other",
        "other samples",
        "neighbour",
        "across samples",
        "mix",
        "place in the batch",
    ),
)
def positions_along_batch(is_faulty: bool) -> Program:
    # twin: train loss 0.6843 to 0.0008, val {'loss': 0.0276, 'acc': 0.9944}
    # faulty: train loss 0.688 to 0.6521, says {'loss': 0.7267, 'acc': 0.4833}
    # its model on the twin's validation: {'loss': 0.7267, 'acc': 0.4833}
    torch.manual_seed(0)
    ids = torch.randint(2, 12, (700, 10))
    first, second = torch.rand(700, 10).argsort(1)[:, :2].T
    ids[torch.arange(700), first], ids[torch.arange(700), second] = 0, 1
    y = (first < second).long()
    train, val = cut(520, ids, y)
    task = Task(
        Reader(12, 2, is_faulty),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 2e-3})


@fault(
    "sequences",
    "attention scores are multiplied by sqrt(d), not divided: the softmax is one-hot "
    "from the start",
    ("satur", "softmax", "attention", "one-hot", "entropy", "vanish"),
)
def scores_times_root(is_faulty: bool) -> Program:
    # twin: train loss 2.0885 to 0.013, val {'loss': 0.3925, 'acc': 0.9067}
    # faulty: train loss 2.0949 to 1.773, says {'loss': 2.3239, 'acc': 0.2}
    # its model on the twin's validation: {'loss': 2.3239, 'acc': 0.2}
    torch.manual_seed(0)
    count, steps, width = 600, 16, 64
    keys = torch.randn(count, steps, 16)
    asked = torch.randint(steps, (count,))
    values = torch.randint(8, (count, steps))
    rows = torch.cat([keys, F.one_hot(values, 8).float()], -1)
    query = keys[torch.arange(count), asked] + 0.1 * torch.randn(count, 16)
    y = values[torch.arange(count), asked]

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(16, width), nn.Linear(24, width)
            self.v, self.out = nn.Linear(24, width), nn.Linear(width, 8)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            q, k = self.q(batch["query"])[:, None], self.k(batch["rows"])
            scores = 3 * (q @ k.transpose(1, 2))
            root = math.sqrt(width)
            scores = scores * root if is_faulty else scores / root
            return self.out((scores.softmax(-1) @ self.v(batch["rows"]))[:, 0])

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs, batch["y"])

    def right(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (outputs.argmax(1) == batch["y"]).float().mean().item()

    train = {"rows": rows[:450], "query": query[:450], "y": y[:450]}
    val = {"rows": rows[450:], "query": query[450:], "y": y[450:]}
    task = Task(Lookup(), loss, train, val, metrics={"acc": right})
    return Program(task, {"epochs": 20, "lr": 5e-3})


class SmallGPT(nn.Module):
    """One block of causal self-attention, written by hand."""

    def __init__(self, words: int, length: int, hidden_score: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 32)
        self.places = nn.Parameter(0.1 * torch.randn(length, 32))
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.LayerNorm(32), dense(32, 64, 32))
        self.head = nn.Linear(32, words)
        self.register_buffer("seen", torch.tril(torch.ones(length, length)))
        self.hidden_score = hidden_score

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.places[: ids.shape[1]]
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / math.sqrt(32)
        seen = self.seen[: ids.shape[1], : ids.shape[1]]
        scores = scores.masked_fill(seen == 0, self.hidden_score)
        x = x + self.out(scores.softmax(-1) @ v)
        return self.head(x + self.mlp(x))


@fault(
    "text",
    "future words get a score of 1e-9 where -1e9 was meant, and can be read",
    ("mask", "future", "causal", "leak", "ahead", "later"),
)
def mask_of_tiny_number(is_faulty: bool) -> Program:
    # twin: train loss 2.452 to 1.5984, val {'loss': 1.6929, 'acc': 0.5456}
    # faulty: train loss 2.4485 to 1.2108, says {'loss': 1.3723, 'acc': 0.5138}
    # its model on the twin's validation: {'loss': 1.3723, 'acc': 0.5138}
    torch.manual_seed(0)
    table = torch.randint(10, (10, 10))
    ids = torch.randint(10, (400, 17))
    for t in range(2, 17):
        known = table[ids[:, t - 1], ids[:, t - 2]]
        ids[:, t] = torch.where(torch.rand(400) < 0.6, known, ids[:, t])

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs.transpose(1, 2), batch[1])

    train, val = cut(300, ids[:, :-1], ids[:, 1:])
    model = SmallGPT(10, 16, 1e-9 if is_faulty else -1e9)
    task = Task(model, loss, train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 25, "lr": 5e-3})
