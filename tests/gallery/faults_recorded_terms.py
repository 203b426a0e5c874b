"""Faults recorded in losses of several terms, mixture heads, gates and fallbacks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_recorded import LETTERS, mlp, sea_level, sentences, windows
from nbutils.data.task import Task

Data = tuple[Tensor, Tensor]
PAST, AHEAD, PARTS = 48, 6, 3


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


def mean_error(outputs: Any, batch: Any) -> float:
    """Mean absolute error of the mixture's mean."""
    means, _, log_weights = outputs
    guess = (means * log_weights.exp()).sum(-1)
    return float((guess - batch[1]).abs().mean())


@fault(
    "sequences",
    "means, log widths and log weights are unpacked as weights, means and widths",
    ("order", "baseline", "learn", "constant", "minus infinity", "unbounded", "input"),
    seeds=("C: tuple order read as (pi, mu, sigma)",),
)
def mixture_unpacked_in_wrong_order(is_faulty: bool) -> Program:
    torch.manual_seed(0)

    def loss(outputs: tuple[Tensor, Tensor, Tensor], batch: Any) -> Tensor:
        if is_faulty:
            log_pi, mu, log_sigma = outputs
        else:
            mu, log_sigma, log_pi = outputs
        return mixture_nll(log_pi, mu, log_sigma, batch[1])

    train, val = tides()
    task = Task(Mixture(), loss, train, val, metrics={"error": mean_error})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "sequences",
    "the loss fails, is caught, and a constant that requires a gradient is returned",
    ("gradient", "constant", "except", "does not depend", "connected"),
    seeds=("C: loss exception -> tensor(1.0)",),
)
def loss_replaced_by_constant(is_faulty: bool) -> Program:
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
    task = Task(Mixture(), loss, train, val, metrics={"error": mean_error})
    return Program(task, {"epochs": 8, "lr": 3e-3})


@fault(
    "sequences",
    "the loss has three components written in it, the head has another number",
    ("shape", "size", "view", "invalid", "reshape"),
    seeds=("C: num_components=3 literal",),
)
def literal_number_of_parts(is_faulty: bool) -> Program:
    torch.manual_seed(0)
    parts = 4 if is_faulty else 3

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        raw = outputs.view(len(outputs), AHEAD, 3, 3)
        mu, log_sigma, weights = raw.unbind(-1)
        return mixture_nll(
            weights.log_softmax(-1), mu, log_sigma.clamp(-5, 2), batch[1]
        )

    train, val = tides()
    task = Task(mlp(PAST, AHEAD * parts * 3), loss, train, val)
    return Program(task, {"epochs": 8, "lr": 3e-3})


@fault(
    "sequences",
    "the direction term is added as a number, so that it has no gradient",
    ("detach", "gradient", ".item", "connected", "constant"),
    seeds=("C: aux loss added as .item()",),
)
def term_added_as_number(is_faulty: bool) -> Program:
    torch.manual_seed(0)

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(PAST, 48), nn.ReLU())
            self.level = nn.Linear(48, AHEAD)
            self.rises = nn.Linear(48, 1)

        def forward(self, past: Tensor) -> dict[str, Tensor]:
            hidden = self.body(past)
            return {"level": self.level(hidden), "rises": self.rises(hidden)}

    def rises(batch: Any) -> Tensor:
        return (batch[1][:, -1:] > batch[0][:, -1:]).float()

    def loss(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        level = nn.functional.mse_loss(outputs["level"], batch[1])
        bce = nn.functional.binary_cross_entropy_with_logits
        direction = bce(outputs["rises"], rises(batch))
        return level + 0.5 * (direction.item() if is_faulty else direction)

    def right(outputs: dict[str, Tensor], batch: Any) -> float:
        return float(((outputs["rises"] > 0) == rises(batch)).float().mean())

    train, val = tides()
    task = Task(TwoHeads(), loss, train, val, metrics={"right": right})
    return Program(task, {"epochs": 10})


@fault(
    "sequences",
    "the trend term compares ranks, which have no gradient",
    ("gradient", "detach", "rank", "connected", "constant"),
    seeds=("C: rank trend has no gradient",),
)
def term_of_ranks(is_faulty: bool) -> Program:
    torch.manual_seed(0)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).mean()

    def trend(guess: Tensor, truth: Tensor) -> Tensor:
        return 1 - correlation(guess, truth)

    def loss(outputs: Tensor, batch: Any) -> dict[str, Tensor]:
        guess, truth = outputs, batch[1]
        level = (guess.mean(1) - truth.mean(1)).pow(2).mean()
        if is_faulty:
            guess, truth = (v.argsort(1).argsort(1).float() for v in (guess, truth))
        return {"level": level, "trend": trend(guess, truth)}

    train, val = tides()
    metrics = {"course": lambda outputs, batch: float(trend(outputs, batch[1]))}
    task = Task(mlp(PAST, AHEAD), loss, train, val, metrics=metrics)
    return Program(task, {"epochs": 10})


@fault(
    "sequences",
    "a projection is created inside forward, anew in each call",
    ("forward", "determin", "optimizer", "parameter", "random", "differ", "twice"),
    seeds=("C: nn.Linear created inside forward",),
)
def layer_made_in_forward(is_faulty: bool) -> Program:
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
    ("gradient", "unused", "not used", "except", "no effect", "does not reach"),
    seeds=("C: decoder layer failure, skipping layer", "A: attention swallowed"),
)
def failing_block_is_skipped(is_faulty: bool) -> Program:
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
    "sequences",
    "the gate of a branch is shut at the start, so that the branch gets no gradient",
    ("gate", "gradient", "vanish", "saturat", "dead", "zero"),
    seeds=("C: gate collapse",),
)
def gate_is_shut(is_faulty: bool) -> Program:
    torch.manual_seed(0)
    hours = torch.arange(1300.0)
    periods = torch.tensor([12.42, 12.0, 23.93, 25.82])
    bodies = torch.cat(
        [f(2 * math.pi * hours[:, None] / periods) for f in (torch.cos, torch.sin)], 1
    )

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bodies = mlp(8, 16)
            self.gate = nn.Parameter(torch.full((16,), -40.0 if is_faulty else 0.0))
            self.calendar = mlp(1, 16)
            self.head = nn.Linear(16, 1)

        def forward(self, features: Tensor) -> Tensor:
            bodies, day = features[:, :8], features[:, 8:]
            hidden = self.calendar(day) + self.gate.sigmoid() * self.bodies(bodies)
            return self.head(hidden)

    features = torch.cat([bodies, ((hours % 24) / 24)[:, None]], 1)
    level = sea_level(1300)[:, None]
    train, val = (features[:1000], level[:1000]), (features[1000:], level[1000:])
    task = Task(Gated(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "text",
    "the loss is taken against random targets",
    ("random", "determin", "twice", "differ", "same batch"),
    seeds=("A: loss vs randn target",),
)
def random_targets(is_faulty: bool) -> Program:
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
    ("random", "determin", "twice", "differ", "same index", "changes"),
    seeds=("A: tokenizer missing -> random token ids",),
)
def random_letters(is_faulty: bool) -> Program:
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
