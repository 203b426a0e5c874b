"""Faults of token ids: padding, ignored labels and unknown words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import accuracy, copies, halves, reviews, shapes
from nbutils.data.task import Task


def tag_rate(outputs: Tensor, batch: Any) -> float:
    """Share of labels that are not -100 and are hit."""
    kept = batch[1] != -100
    return (outputs.argmax(2) == batch[1])[kept].float().mean().item()


class Tagger(nn.Module):
    """A bidirectional GRU with a label for each token."""

    def __init__(self, words: int, labels: int, padding: int | None = None):
        super().__init__()
        self.embed = nn.Embedding(words, 24, padding_idx=padding)
        self.gru = nn.GRU(24, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, labels)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(ids))[0])


def entities(count: int = 900) -> tuple[Any, Any]:
    """Sentences of ids 1 to 29; label 1: after id 5, 2: an id above 24, 0: other."""
    ids = torch.randint(1, 30, (count, 10))
    ids[torch.rand(count, 10) < 0.12] = 5
    labels = torch.where(ids > 24, 2, 0)
    labels[:, 1:][ids[:, :-1] == 5] = 1
    return halves(ids, labels, count // 4)


@fault(
    "text",
    "ignore_index=0 of the padding, though 0 is the label of most words",
    ("ignore_index", "ignore index", "ignored"),
)
def ignore_index_is_a_class(is_faulty: bool) -> Program:
    # val tag rate 0.266 against 1
    torch.manual_seed(0)
    train, val = entities()
    criterion = nn.CrossEntropyLoss(ignore_index=0 if is_faulty else -100)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return criterion(outputs.flatten(0, 1), batch[1].flatten())

    task = Task(Tagger(30, 3), loss, train, val, metrics={"tag_rate": tag_rate})
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "text",
    "the prompt's mask covers the answer too: every label is -100",
    ("-100", "ignore", "nan", "finite"),
)
def all_labels_ignored(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val loss 0.0678
    torch.manual_seed(1)

    def masked(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        source, answer = pair
        ids = torch.cat([source, answer], dim=1)
        labels = ids[:, 1:].clone()
        prompt = source.shape[1]
        labels[:, : len(ids[0]) if is_faulty else prompt - 1] = -100
        return ids[:, :-1], labels

    train, val = (masked(pair) for pair in copies(count=1200, words=4))

    class LanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 32)
            self.lstm = nn.LSTM(32, 64, batch_first=True)
            self.out = nn.Linear(64, 12)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.lstm(self.embed(ids))[0])

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(outputs.transpose(1, 2), batch[1])

    task = Task(LanguageModel(), loss, train, val)
    return Program(task, {"epochs": 15, "lr": 5e-3})


@fault(
    "text",
    "padding_idx=0, and 0 is a word as well: its embedding is zero and never learns",
    ("padding",),
)
def padding_index_is_a_word(is_faulty: bool) -> Program:
    # val accuracy 0.427 against 1
    torch.manual_seed(2)
    ids = torch.randint(0, 8, (1200, 10))
    labels = (ids == 0).sum(1).clamp(max=3)
    train, val = halves(ids, labels, 300)

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 16, padding_idx=0 if is_faulty else 8)
            self.gate = nn.Linear(16, 16, bias=False)
            self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.gate(self.embed(ids))).sum(1))

    task = Task(
        Counter(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


@fault(
    "text",
    "the embedding has fewer rows than the vocabulary, which a rare word shows",
    ("out of range", "embedding", "vocabulary", "index"),
)
def embedding_smaller_than_vocabulary(is_faulty: bool) -> Program:
    # the run stops with an IndexError, against val tag rate 1
    torch.manual_seed(3)
    (ids, labels), val = entities()
    ids[257, 3] = 31  # once in the training data
    rows = 30 if is_faulty else 32
    model = Tagger(rows, 3)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())

    task = Task(model, loss, (ids, labels), val, metrics={"tag_rate": tag_rate})
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "dicts",
    "the mask's background is ignored: boxes grow over the whole picture",
    ("ignore_index", "ignore index", "ignored"),
)
def background_ignored(is_faulty: bool) -> Program:
    # val pixel accuracy 0.184 against 0.899
    torch.manual_seed(4)
    train, val = shapes(count=400)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    )

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        ignored = 0 if is_faulty else 255
        return functional.cross_entropy(outputs, batch["mask"], ignore_index=ignored)

    def pixels(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (outputs.argmax(1) == batch["mask"]).float().mean().item()

    task = Task(
        model,
        loss,
        train,
        val,
        forward=lambda model, batch: model(batch["image"]),
        metrics={"pixel_accuracy": pixels},
    )
    return Program(task, {"epochs": 5, "lr": 5e-3})


@fault(
    "text",
    "the padding mask is turned round: words are masked, padding is attended to",
    ("mask", "padding", "depend", "ignore"),
)
def padding_mask_inverted(is_faulty: bool) -> Program:
    # val accuracy 0.425 against 0.808
    torch.manual_seed(8)

    def padded(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        ids, y = pair
        filler = ids.new_zeros(len(ids), 4)
        return torch.cat([ids, filler], dim=1), y

    train, val = (padded(pair) for pair in reviews())

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(40, 32)
            self.query = nn.Parameter(torch.randn(1, 1, 32))
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

        def forward(self, ids: Tensor) -> Tensor:
            words = self.embed(ids)
            mask = ids != 0 if is_faulty else ids == 0
            query = self.query.expand(len(ids), -1, -1)
            found, _ = self.attention(query, words, words, key_padding_mask=mask)
            return self.head(found.squeeze(1))

    task = Task(
        Reader(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 3e-3})
