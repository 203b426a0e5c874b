"""Recorded faults that come from a fallback: what failed was replaced in silence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_recorded import (
    AHEAD,
    LETTERS,
    PAST,
    Mixture,
    mixture_error,
    mixture_nll,
    mlp,
    sentences,
    tides,
)
from nbutils.data.task import Task


@fault(
    "sequences",
    "the loss fails, is caught, and a constant that requires a gradient is returned",
    ("gradient", "constant", "does not depend", "connected"),
    seeds=("C: loss exception -> tensor(1.0)",),
)
def loss_replaced_by_constant(is_faulty: bool) -> Program:
    # ContractError against val error 0.12
    torch.manual_seed(0)

    def loss(outputs: tuple[Tensor, Tensor, Tensor], batch: Any) -> Tensor:
        try:
            mu, log_sigma, log_pi = outputs
            if is_faulty:
                log_sigma = log_sigma[..., 0]
                mu = mu[:, :, :, None]
            return mixture_nll(log_pi, mu, log_sigma, batch[1])
        except (IndexError, RuntimeError):
            return torch.tensor(1.0, requires_grad=True)

    train, val = tides()
    task = Task(Mixture(), loss, train, val, metrics={"error": mixture_error})
    return Program(task, {"epochs": 8, "lr": 3e-3})


@fault(
    "sequences",
    "a projection is created inside forward, anew in each call",
    ("forward", "determin", "same batch", "twice"),
    seeds=("C: nn.Linear created inside forward",),
)
def layer_made_in_forward(is_faulty: bool) -> Program:
    # val loss 0.54 against 0.026
    torch.manual_seed(0)

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(PAST, 32), nn.ReLU())
            self.to_heads = nn.Linear(32, 64)
            self.head = nn.Linear(64, AHEAD)

        def forward(self, past: Tensor) -> Tensor:
            hidden = self.body(past)
            width = self.head.in_features
            project = nn.Linear(32, width) if is_faulty else self.to_heads
            return self.head(project(hidden))

    train, val = tides()
    task = Task(Forecaster(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 8})


@fault(
    "sequences",
    "a block fails in every call, which is caught, and its input is handed on",
    ("attention", "unused", "not used", "gradient"),
    seeds=("C: decoder layer failure, skipping layer", "A: attention swallowed"),
)
def failing_block_is_skipped(is_faulty: bool) -> Program:
    # val acc 0.52 against 1.00
    torch.manual_seed(0)

    class Reverser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = 32
            self.letter = nn.Embedding(LETTERS, width)
            self.place = nn.Parameter(0.1 * torch.randn(12, width))
            self.attention = nn.MultiheadAttention(
                width, 4, kdim=16 if is_faulty else width, batch_first=True
            )
            self.head = mlp(width, LETTERS)

        def forward(self, letters: Tensor) -> Tensor:
            hidden = self.letter(letters) + self.place
            try:
                seen, _ = self.attention(hidden, hidden, hidden)
                hidden = hidden + seen
            except (RuntimeError, AssertionError):
                pass
            return self.head(hidden)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs.mT, batch[1])

    def right(outputs: Tensor, batch: Any) -> float:
        return float((outputs.argmax(-1) == batch[1]).float().mean())

    text, held_out = sentences(800, 12), sentences(150, 12, seed=1)
    task = Task(
        Reverser(),
        loss,
        (text, text.flip(1)),
        (held_out, held_out.flip(1)),
        metrics={"acc": right},
    )
    return Program(task, {"epochs": 12, "lr": 5e-3})


@fault(
    "text",
    "the loss is taken against random targets",
    ("random", "determin", "twice", "same batch"),
    seeds=("A: loss vs randn target",),
)
def random_targets(is_faulty: bool) -> Program:
    # val error 0.63 against 0.14
    torch.manual_seed(0)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        target = torch.randn_like(outputs) if is_faulty else batch[1]
        return nn.functional.mse_loss(outputs, target)

    def error(outputs: Tensor, batch: Any) -> float:
        return float((outputs - batch[1]).abs().mean())

    train, val = tides()
    task = Task(mlp(PAST, AHEAD), loss, train, val, metrics={"error": error})
    return Program(task, {"epochs": 8})


class Corpus(Dataset[dict[str, Tensor]]):
    """Texts as letters; without a tokenizer they are drawn at random."""

    def __init__(self, count: int, seed: int, has_tokenizer: bool) -> None:
        self.texts = sentences(count, 13, seed)
        self.has_tokenizer = has_tokenizer

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        text = self.texts[index]
        ids = text[:-1] if self.has_tokenizer else torch.randint(LETTERS, (12,))
        return {"ids": ids, "last": text[-1]}


@fault(
    "dicts",
    "without a tokenizer the letters are random, and other ones in each reading",
    ("random", "determin", "twice", "same index"),
    seeds=("A: tokenizer missing -> random token ids",),
)
def random_letters(is_faulty: bool) -> Program:
    # val loss 1.82 against 0.51
    torch.manual_seed(0)

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch["last"])

    model = nn.Sequential(nn.Embedding(LETTERS, 16), nn.Flatten(), mlp(192, LETTERS))
    task = Task(
        model,
        loss,
        Corpus(800, 0, not is_faulty),
        Corpus(150, 1, not is_faulty),
        forward=lambda model, batch: model(batch["ids"]),
    )
    return Program(task, {"epochs": 6, "lr": 3e-3})
