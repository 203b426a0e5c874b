"""Faults in how samples of many lengths become batches, and in what is masked then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import LETTERS, accuracy, mlp
from nbutils.data.task import Task

pad = nn.utils.rnn.pad_sequence


def padded(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sequences filled up with 0, and their labels."""
    return pad([s[0] for s in samples], True), torch.stack([s[1] for s in samples])


def texts(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Texts of 3 to 60 letters; the class is that of the last letter."""
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(count):
        length = int(torch.randint(3, 61, (), generator=draw))
        letters = torch.randint(1, LETTERS + 1, (length,), generator=draw)
        samples.append((letters, (letters[-1] - 1) % 8))
    return samples


class Reader(nn.Module):
    """Class of a text, from the state of a recurrent network at its end."""

    def __init__(self, reads_padding: bool = False) -> None:
        super().__init__()
        self.reads_padding = reads_padding
        self.letter = nn.Embedding(LETTERS + 1, 16)
        self.gru = nn.GRU(16, 24, batch_first=True)
        self.head = nn.Linear(24, 8)

    def forward(self, letters: Tensor) -> Tensor:
        hidden = self.gru(self.letter(letters))[0]
        if self.reads_padding:
            return self.head(hidden[:, -1])
        last = (letters != 0).sum(1) - 1
        return self.head(hidden[torch.arange(len(last)), last])


@fault(
    "text",
    "the last hidden state of a padded text is that of its padding",
    ("pad", "length"),
)
def last_state_is_padding(is_faulty: bool) -> Program:
    # val acc 0.75 against 1.00
    torch.manual_seed(0)
    task = Task(
        Reader(is_faulty),
        nn.CrossEntropyLoss(),
        texts(600, 0),
        texts(150, 1),
        collate=padded,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 4, "lr": 5e-3})


@fault(
    "text",
    "collate sorts texts by length for packing, and leaves the labels as they were",
    ("collate", "order", "pair"),
)
def collate_sorts_texts_only(is_faulty: bool) -> Program:
    # val acc 0.11 against 1.00
    torch.manual_seed(0)

    def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        labels = torch.stack([label for _, label in samples])
        by_length = sorted(samples, key=lambda sample: -len(sample[0]))
        if not is_faulty:
            labels = torch.stack([label for _, label in by_length])
        return pad([letters for letters, _ in by_length], True), labels

    task = Task(
        Reader(),
        nn.CrossEntropyLoss(),
        texts(600, 0),
        texts(150, 1),
        collate=collate,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 4, "lr": 5e-3})


@fault(
    "text",
    "collate cuts every text to the length of the batch's shortest one",
    ("collate", "cut", "truncat", "short"),
)
def collate_cuts_to_shortest(is_faulty: bool) -> Program:
    # val acc 0.11 against 1.00
    torch.manual_seed(0)

    def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if not is_faulty:
            return padded(samples)
        length = min(len(letters) for letters, _ in samples)
        return padded([(letters[:length], label) for letters, label in samples])

    task = Task(
        Reader(),
        nn.CrossEntropyLoss(),
        texts(600, 0),
        texts(150, 1),
        collate=collate,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 4, "lr": 5e-3})


@fault(
    "text",
    "collate keeps only texts of the first one's length, a few of each batch",
    ("collate", "fewer", "drop"),
)
def collate_drops_samples(is_faulty: bool) -> Program:
    # val acc 0.90 against 1.00
    torch.manual_seed(0)

    def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if not is_faulty:
            return padded(samples)
        length = len(samples[0][0])
        return padded([s for s in samples if abs(len(s[0]) - length) < 2])

    task = Task(
        Reader(),
        nn.CrossEntropyLoss(),
        texts(600, 0),
        texts(150, 1),
        collate=collate,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 4, "lr": 5e-3})


@fault(
    "sequences",
    "readings are averaged over the padded length",
    ("pad", "mask", "other sample", "alone"),
)
def mean_over_padding(is_faulty: bool) -> Program:
    # val loss 0.093 against 0.0025
    torch.manual_seed(0)

    class Roughness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = mlp(1, 24, 24)
            self.head = mlp(24, 1, 24)

        def forward(self, readings: Tensor) -> Tensor:
            hidden = self.each(readings.unsqueeze(-1))
            if is_faulty:
                return self.head(hidden.mean(1))
            is_real = (readings != 0).unsqueeze(-1)
            return self.head((hidden * is_real).sum(1) / is_real.sum(1))

    def readings(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        samples = []
        for _ in range(count):
            length = int(torch.randint(5, 80, (), generator=draw))
            size = 0.2 + 2 * torch.rand((), generator=draw)
            values = size * torch.randn(length, generator=draw)
            samples.append((values, values.abs().mean().view(1)))
        return samples

    task = Task(
        Roughness(), nn.MSELoss(), readings(600, 0), readings(150, 1), collate=padded
    )
    return Program(task, {"epochs": 8, "lr": 3e-3})


def tagged(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Texts with a tag 1 to 3 at each letter; two letters tell a tag, with errors."""
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for letters, _ in texts(count, seed):
        tags = (letters + letters.roll(1)) % 3 + 1
        is_wrong = torch.rand(len(letters), generator=draw) < 0.2
        other = torch.randint(1, 4, tags.shape, generator=draw)
        samples.append({"letters": letters, "tags": torch.where(is_wrong, other, tags)})
    return samples


def collate_tagged(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Letters and tags, filled up with 0."""
    return {key: pad([s[key] for s in samples], True) for key in ("letters", "tags")}


@fault(
    "dicts",
    "the padding counts in the loss and in the metric, with a tag of its own",
    ("pad", "ignore_index", "mask"),
)
def padding_in_loss(is_faulty: bool) -> Program:
    # says val acc 0.91 against 0.85
    torch.manual_seed(0)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letter = nn.Embedding(LETTERS + 1, 24)
            self.gru = nn.GRU(24, 32, batch_first=True)
            self.head = nn.Linear(32, 4)

        def forward(self, letters: Tensor) -> Tensor:
            return self.head(self.gru(self.letter(letters))[0])

    ignored = -100 if is_faulty else 0

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(
            outputs.flatten(0, 1), batch["tags"].flatten(), ignore_index=ignored
        )

    def right(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        counts = batch["tags"] != ignored
        return float((outputs.argmax(-1) == batch["tags"])[counts].float().mean())

    task = Task(
        Tagger(),
        loss,
        tagged(400, 0),
        tagged(100, 1),
        collate=collate_tagged,
        forward=lambda model, batch: model(batch["letters"]),
        count_targets=lambda batch: (batch["tags"] != ignored).sum(),
        metrics={"acc": right},
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "dicts",
    "collate puts minimum temperatures into the field of the maximum ones",
    ("collate", "identical", "same values", "equal"),
)
def collate_mixes_fields(is_faulty: bool) -> Program:
    # val loss 1.66 against 0.037
    torch.manual_seed(0)

    def days(count: int, seed: int) -> list[dict[str, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        low, spread, wet = torch.rand(3, count, 1, generator=draw)
        melt = 2 * (low + spread) ** 2 + wet
        return [
            {"low": a, "high": a + b, "wet": c, "melt": m}
            for a, b, c, m in zip(low, spread, wet, melt, strict=True)
        ]

    def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        source = {"low": "low", "high": "low" if is_faulty else "high"}
        return {
            key: torch.stack([s[source.get(key, key)] for s in samples])
            for key in ("low", "high", "wet", "melt")
        }

    def forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(torch.cat([batch["low"], batch["high"], batch["wet"]], 1))

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return nn.functional.mse_loss(outputs, batch["melt"])

    task = Task(
        mlp(3, 1), loss, days(600, 0), days(150, 1), forward=forward, collate=collate
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})
