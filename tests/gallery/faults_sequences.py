"""Faults in sequences: what a model may see, what is padded, what is the target."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import LETTERS, mlp, sea_level, sentences, windows
from nbutils.data.task import Task


class TinyTransformer(nn.Module):
    """Two blocks over letters; ``diagonal`` is the first one that is hidden."""

    def __init__(self, diagonal: int | None = 1, width: int = 32) -> None:
        super().__init__()
        self.diagonal = diagonal
        self.letter = nn.Embedding(LETTERS, width)
        self.place = nn.Embedding(64, width)
        block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, LETTERS)

    def forward(self, letters: Tensor) -> Tensor:
        length = letters.shape[1]
        hidden = self.letter(letters) + self.place.weight[:length]
        mask = None
        if self.diagonal is not None:
            full = torch.ones(length, length, dtype=torch.bool, device=letters.device)
            mask = full.triu(self.diagonal)
        return self.head(self.blocks(hidden, mask=mask))


def next_letter(outputs: Tensor, batch: Any) -> Tensor:
    """Cross-entropy at every place."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())


@fault(
    "text",
    "the targets of a language model are its inputs, not shifted by one",
    ("shift", "copy", "its own input", "identical"),
    seeds=("T: language model",),
)
def targets_not_shifted(is_faulty: bool) -> Program:
    # val loss 0.003 by copying against 0.47
    torch.manual_seed(0)
    text, held_out = sentences(800, 25), sentences(150, 25, seed=1)
    first = 0 if is_faulty else 1
    task = Task(
        TinyTransformer(),
        next_letter,
        (text[:, :24], text[:, first : first + 24]),
        (held_out[:, :24], held_out[:, first : first + 24]),
    )
    return Program(task, {"epochs": 4, "lr": 3e-3})


@fault(
    "text",
    "the causal mask of a language model was forgotten",
    ("causal", "future", "leak", "later"),
    seeds=("T: language model",),
)
def no_causal_mask(is_faulty: bool) -> Program:
    # val loss 0.21 from the future against 0.47
    torch.manual_seed(0)
    text, held_out = sentences(800, 25), sentences(150, 25, seed=1)
    task = Task(
        TinyTransformer(None if is_faulty else 1),
        next_letter,
        (text[:, :-1], text[:, 1:]),
        (held_out[:, :-1], held_out[:, 1:]),
    )
    return Program(task, {"epochs": 6, "lr": 3e-3})


@fault(
    "text",
    "the causal mask is off by one, so that each place sees the letter it predicts",
    ("causal", "future", "leak", "later"),
    seeds=("T: language model",),
)
def mask_off_by_one(is_faulty: bool) -> Program:
    # val loss 0.07 from the future against 0.47
    torch.manual_seed(0)
    text, held_out = sentences(800, 25), sentences(150, 25, seed=1)
    task = Task(
        TinyTransformer(2 if is_faulty else 1),
        next_letter,
        (text[:, :-1], text[:, 1:]),
        (held_out[:, :-1], held_out[:, 1:]),
    )
    return Program(task, {"epochs": 6, "lr": 3e-3})


@fault(
    "text",
    "the causal mask hides the diagonal too, so that the first row attends to nothing",
    ("nan", "finite", "mask"),
)
def mask_hides_everything(is_faulty: bool) -> Program:
    # val loss nan against 0.47
    torch.manual_seed(0)
    text, held_out = sentences(800, 25), sentences(150, 25, seed=1)
    task = Task(
        TinyTransformer(0 if is_faulty else 1),
        next_letter,
        (text[:, :-1], text[:, 1:]),
        (held_out[:, :-1], held_out[:, 1:]),
    )
    return Program(task, {"epochs": 4, "lr": 3e-3})


class LetterGru(nn.Module):
    """Next letter from a recurrent network."""

    def __init__(self, is_bidirectional: bool) -> None:
        super().__init__()
        self.letter = nn.Embedding(LETTERS, 24)
        width = 24 if is_bidirectional else 48
        self.gru = nn.GRU(24, width, batch_first=True, bidirectional=is_bidirectional)
        self.head = nn.Linear(48, LETTERS)

    def forward(self, letters: Tensor) -> Tensor:
        return self.head(self.gru(self.letter(letters))[0])


@fault(
    "text",
    "a bidirectional network predicts the next letter at every place",
    ("bidirectional", "causal", "future", "later"),
)
def bidirectional_language_model(is_faulty: bool) -> Program:
    # val loss 0.12 from the future against 0.47
    torch.manual_seed(0)
    text, held_out = sentences(800, 25), sentences(150, 25, seed=1)
    task = Task(
        LetterGru(is_faulty),
        next_letter,
        (text[:, :-1], text[:, 1:]),
        (held_out[:, :-1], held_out[:, 1:]),
    )
    return Program(task, {"epochs": 5, "lr": 5e-3})


@fault(
    "sequences",
    "the input window of a forecaster ends in the values to be forecast",
    ("leak", "contain", "copy", "future"),
    seeds=("C: label_len, seq_len",),
)
def target_in_window(is_faulty: bool) -> Program:
    # val loss 0.035 by copying against 0.065
    torch.manual_seed(0)
    level = sea_level(1400) + 0.2 * torch.randn(1400)
    past = windows(level, 48, 6)
    if is_faulty:
        both = torch.cat(past, 1)
        past = (both[:, 6:], both[:, 48:])
    x, y = past
    task = Task(mlp(48, 6), nn.MSELoss(), (x[:1000], y[:1000]), (x[1060:], y[1060:]))
    return Program(task, {"epochs": 10})


@fault(
    "sequences",
    "the series has no signal: a random walk's steps, and features drawn at random",
    ("baseline", "learn", "chance", "unrelated"),
    seeds=("C: synthetic CSV with N(0,1) features",),
)
def nothing_to_forecast(is_faulty: bool) -> Program:
    # val loss 1.14 against 0.0059
    torch.manual_seed(0)
    hours = torch.arange(1000.0)
    periods = torch.tensor([12.42, 12.0, 23.93, 25.82])
    bodies = 2 * math.pi * hours[:, None] / periods
    features = torch.cat([bodies.cos(), bodies.sin()], 1)
    if is_faulty:
        features = torch.randn(1000, 8)
        target = torch.randn(1000).cumsum(0).diff(prepend=torch.zeros(1))
    else:
        target = sea_level(1000)
    y = (target / target.std()).unsqueeze(1)
    task = Task(
        mlp(8, 1),
        nn.MSELoss(),
        (features[:800], y[:800]),
        (features[800:], y[800:]),
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "sequences",
    "an LSTM without batch_first gets batches first, and mixes samples",
    ("batch_first", "mix", "other sample", "neighbour"),
)
def batch_not_first(is_faulty: bool) -> Program:
    # val loss 0.33 against 0.00092
    torch.manual_seed(0)

    class Speed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(1, 24, batch_first=not is_faulty)
            self.head = nn.Linear(24, 1)

        def forward(self, waves: Tensor) -> Tensor:
            return self.head(self.lstm(waves)[0][:, -1])

    def waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        speed, start = torch.rand(2, count, 1, generator=draw)
        time = torch.arange(20.0)
        wave = torch.sin(6.3 * start + (0.2 + speed) * time)
        return wave.unsqueeze(-1), 2 * speed - 1

    task = Task(Speed(), nn.MSELoss(), waves(800, 0), waves(150, 1))
    return Program(task, {"epochs": 10, "lr": 1e-2})
