"""Healthy: ragged sequences, series and audio-like data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    pack_padded_sequence,
    pack_sequence,
    pad_sequence,
)

from gallery.case import Program, healthy
from gallery.data_unusual import generator, split
from nbutils.data.task import Task

Ragged = list[tuple[Tensor, int]]


def _ragged(num: int, seed: int = 0) -> Ragged:
    """Series of 5 to 30 steps; the class is their frequency."""
    g = generator(seed)
    samples: Ragged = []
    for _ in range(num):
        length = int(torch.randint(5, 31, (), generator=g))
        label = int(torch.randint(3, (), generator=g))
        phase = 6.3 * torch.rand(1, generator=g)
        wave = torch.sin((0.5 + 0.5 * label) * torch.arange(length) + phase)
        noise = 0.1 * torch.randn(length, 2, generator=g)
        samples.append((torch.stack([wave, wave.cumsum(0) / 5], 1) + noise, label))
    return samples


def _padded(samples: Ragged) -> dict[str, Tensor]:
    return {
        "x": pad_sequence([x for x, _ in samples], batch_first=True),
        "length": torch.tensor([len(x) for x, _ in samples]),
        "y": torch.tensor([y for _, y in samples]),
    }


def _label_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits, batch["y"])


class Packing(nn.Module):
    """Packs what was padded, so that padding is never read."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        packed = pack_padded_sequence(
            batch["x"], batch["length"].cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.rnn(packed)
        return self.head(torch.cat(list(last), dim=1))


@healthy("sequences", "ragged series: padded in collate, packed in the model")
def padded_and_packed() -> Program:
    torch.manual_seed(0)
    samples = _ragged(500)
    task = Task(Packing(), _label_loss, samples[:400], samples[400:], collate=_padded)
    return Program(task, {"epochs": 10, "lr": 5e-3})


class OnPacked(nn.Module):
    """Reads a PackedSequence."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(2, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, packed: nn.utils.rnn.PackedSequence) -> Tensor:
        return self.head(self.rnn(packed)[1][0][-1])


@healthy("sequences", "the batch holds a PackedSequence")
def packed_in_collate() -> Program:
    torch.manual_seed(0)
    samples = _ragged(500)

    def collate(chosen: Ragged) -> tuple[nn.utils.rnn.PackedSequence, Tensor]:
        packed = pack_sequence([x for x, _ in chosen], enforce_sorted=False)
        return packed, torch.tensor([y for _, y in chosen])

    task = Task(
        OnPacked(),
        nn.CrossEntropyLoss(),
        samples[:400],
        samples[400:],
        collate=collate,
        count_targets=lambda batch: len(batch[1]),
    )
    return Program(task, {"epochs": 12, "lr": 5e-3})


class Pooled(nn.Module):
    """Attention over a padded series with a key padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv1d(2, 32, 5, padding=2), nn.ReLU())
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.query = nn.Parameter(torch.zeros(1, 1, 32))
        self.head = nn.Linear(32, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x, length = batch["x"], batch["length"]
        hidden = self.enter(x.transpose(1, 2)).transpose(1, 2)
        padding = torch.arange(x.shape[1], device=x.device) >= length[:, None]
        query = self.query.expand(len(x), -1, -1)
        pooled, _ = self.attention(query, hidden, hidden, key_padding_mask=padding)
        return self.head(pooled.squeeze(1))


@healthy("sequences", "attention pooling over padding with a query that begins at zero")
def masked_attention_pooling() -> Program:
    torch.manual_seed(0)
    samples = _ragged(500)
    task = Task(Pooled(), _label_loss, samples[:400], samples[400:], collate=_padded)
    return Program(task, {"epochs": 10, "lr": 3e-3})


class Listener(nn.Module):
    """Frames to letters and blanks, for CTC."""

    def __init__(self, letters: int = 6) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, letters + 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(self.rnn(batch["frames"])[0]).log_softmax(dim=-1)


def _ctc(log_probs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        batch["letters"],
        batch["num_frames"],
        batch["num_letters"],
        zero_infinity=True,
    )


@healthy("sequences", "CTC: frames and letters differ in length, blanks come first")
def ctc() -> Program:
    torch.manual_seed(0)
    g = generator(0)
    sound = torch.randn(7, 8, generator=g)
    samples = []
    for _ in range(400):
        num = int(torch.randint(2, 6, (), generator=g))
        letters = torch.randint(1, 7, (num,), generator=g)
        repeats = torch.randint(2, 5, (num,), generator=g)
        frames = sound[letters.repeat_interleave(repeats)]
        samples.append((frames + 0.3 * torch.randn(frames.shape, generator=g), letters))

    def collate(chosen: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        frames, letters = zip(*chosen, strict=True)
        return {
            "frames": pad_sequence(frames, batch_first=True),
            "letters": pad_sequence(letters, batch_first=True),
            "num_frames": torch.tensor([len(f) for f in frames]),
            "num_letters": torch.tensor([len(word) for word in letters]),
        }

    model = Listener()
    task = Task(model, _ctc, samples[:320], samples[320:], collate=collate)
    return Program(task, {"epochs": 12, "lr": 5e-3})


class Residual(nn.Module):
    """Forecasts the change since the last value; the head begins at zero."""

    def __init__(self, past: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(past - 1, 32), nn.ReLU())
        self.head = nn.Linear(32, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, past: Tensor) -> Tensor:
        return past[:, -1:] + self.head(self.body(past.diff(dim=1)))


@healthy("sequences", "a random walk with faint memory: persistence is nearly the best")
def random_walk_forecast() -> Program:
    torch.manual_seed(0)
    steps = torch.zeros(1200)
    noise = torch.randn(1200, generator=generator(0))
    for now in range(1, 1200):
        steps[now] = 0.4 * steps[now - 1] + noise[now]
    windows = steps.cumsum(0).unfold(0, 17, 1)
    train, val = split(900, windows[:, :16], windows[:, 16:])
    held = tuple(column[20:] for column in val)  # no window in both
    task = Task(Residual(), nn.L1Loss(), train, held)
    return Program(task, {"epochs": 10})


class DilatedConvolutions(nn.Module):
    """WaveNet in small: causal, gated, with skip connections."""

    def __init__(self, levels: int = 32, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Embedding(levels, width)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=2**depth) for depth in range(4)
        )
        self.leave = nn.Conv1d(width, levels, 1)

    def forward(self, codes: Tensor) -> Tensor:
        hidden, skip = self.enter(codes).transpose(1, 2), 0
        for layer in self.layers:
            past = F.pad(hidden, (layer.dilation[0], 0))
            value, gate = layer(past).chunk(2, dim=1)
            change = value.tanh() * gate.sigmoid()
            hidden, skip = hidden + change, skip + change
        return self.leave(skip)


@healthy("sequences", "next sample of a quantised wave: a class for each time step")
def wavenet() -> Program:
    torch.manual_seed(0)
    speed = 0.2 + 0.6 * torch.rand(300, 1)
    wave = torch.sin(speed * torch.arange(49) + 6.3 * torch.rand(300, 1))
    codes = ((wave + 1) * 15.9).long()
    train, val = split(240, codes[:, :-1], codes[:, 1:])
    task = Task(DilatedConvolutions(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 10, "lr": 5e-3, "batch_size": 16})


@healthy("sequences", "many-to-many regression with time first (T, B, F) in the model")
def time_first_regression() -> Program:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(2, 32)
            self.head = nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.transpose(0, 1))[0]).transpose(0, 1)

    torch.manual_seed(0)
    x = torch.randn(400, 20, 2)
    y = (x[..., :1] * x[..., 1:]).cumsum(dim=1) / 4
    train, val = split(320, x, y)
    task = Task(TimeFirst(), nn.SmoothL1Loss(), train, val)
    return Program(task, {"epochs": 15, "lr": 5e-3})
