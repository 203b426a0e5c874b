"""Faults in texts, captions and signals: what is asked, and what is given away."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_second import accuracy, cut, dense
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


def reversals(count: int, seed: int) -> Pair:
    """Seven letters (3 to 11), and the same backwards; 1 begins, 2 ends."""
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(3, 12, (count, 7), generator=g)
    begin, end = torch.full((count, 1), 1), torch.full((count, 1), 2)
    return text, torch.cat([begin, text.flip(1), end], dim=1)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 32)
        self.places = nn.Parameter(0.3 * torch.randn(2, 9, 32))
        self.net = nn.Transformer(32, 4, 1, 1, 64, 0.0, batch_first=True)
        self.head = nn.Linear(32, 12)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        source, target = self.embed(batch["source"]), self.embed(batch["decoder_ids"])
        source = source + self.places[0, : source.shape[1]]
        target = target + self.places[1, : target.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.net(source, target, tgt_mask=mask, tgt_is_causal=True))


@fault(
    "dicts",
    "the decoder reads the very words it has to say: labels are not shifted against "
    "its input, and copying is enough",
    ("shift", "copy", "copies", "leak", "decoder", "ahead", "future"),
)
def decoder_reads_its_labels(is_faulty: bool) -> Program:
    # twin: train loss 2.6762 to 0.0027, val {'loss': 0.0027, 'acc': 1.0}
    # faulty: train loss 2.8247 to 0.0031, says {'loss': 0.003, 'acc': 1.0}
    # its model on the twin's validation: {'loss': 7.0299, 'acc': 0.0825}
    torch.manual_seed(0)

    def pairs(count: int, seed: int) -> dict[str, Tensor]:
        source, target = reversals(count, seed)
        said = target[:, 1:] if is_faulty else target[:, :-1]
        return {"source": source, "decoder_ids": said, "labels": target[:, 1:]}

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs.transpose(1, 2), batch["labels"])

    def right(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (outputs.argmax(-1) == batch["labels"]).float().mean().item()

    train, val = pairs(500, 0), pairs(100, 1)
    task = Task(Seq2Seq(), loss, train, val, metrics={"acc": right})
    return Program(task, {"epochs": 15, "lr": 3e-3})


class TokenLM(nn.Module):
    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 32)
        self.rnn = nn.GRU(32, 48, batch_first=True)
        self.head = nn.Linear(48, words)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(self.rnn(self.embed(batch["input_ids"]))[0])


def next_token_loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    logits, labels = outputs[:, :-1], batch["labels"][:, 1:]
    return F.cross_entropy(logits.transpose(1, 2), labels)


def counted(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"][:, 1:] != -100).sum()


@fault(
    "text",
    "the end token serves as padding, and all padding is ignored in the labels: the "
    "model is never taught to end",
    ("eos", "end token", "padding", "ignore", "never a target", "never appears"),
)
def end_token_is_padding(is_faulty: bool) -> Program:
    # twin: train loss 2.5286 to 0.004, val {'loss': 0.0039, 'ends': 1.0}
    # faulty: train loss 2.4913 to 0.0038, says {'loss': 0.0036, 'ends': 0.0}
    # its model on the twin's validation: {'loss': 1.0298, 'ends': 0.0}
    torch.manual_seed(0)
    end, pad = 10, 10 if is_faulty else 11

    def counts(count: int, seed: int) -> list[Tensor]:
        g = torch.Generator().manual_seed(seed)
        out = []
        for first in torch.randint(1, 9, (count,), generator=g).tolist():
            out.append(torch.tensor([first, *range(first - 1, -1, -1), end]))
        return out

    def collate(rows: list[Tensor]) -> dict[str, Tensor]:
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        labels = ids.clone()
        labels[labels == pad] = -100
        return {"input_ids": ids, "labels": labels}

    def ends(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        is_last = batch["input_ids"] == 0
        return (outputs.argmax(-1) == end)[is_last].float().mean().item()

    task = Task(
        TokenLM(12),
        next_token_loss,
        counts(300, 0),
        counts(60, 1),
        collate=collate,
        count_targets=counted,
        metrics={"ends": ends},
    )
    return Program(task, {"epochs": 12, "lr": 5e-3})


@fault(
    "text",
    "labels of the answer are masked with -100 and those of the prompt are kept",
    ("ignore", "-100", "prompt", "answer", "mask", "unpredict", "chance"),
)
def prompt_kept_answer_masked(is_faulty: bool) -> Program:
    # twin: train loss 2.546 to 0.0062, val {'loss': 0.0063, 'answers': 1.0}
    # faulty: train loss 2.6315 to 0.8968, says {'loss': 0.9116, 'answers': 0.0}
    # its model on the twin's validation: {'loss': 10.5303, 'answers': 0.0}
    torch.manual_seed(0)

    def sums(count: int, seed: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randint(6, (2, count), generator=g)
        mark = torch.full((count,), 12)
        ids = torch.stack([a, b, mark, a + b, (a - b).abs()], dim=1)
        labels = ids.clone()
        if is_faulty:
            labels[:, 3:] = -100
        else:
            labels[:, :3] = -100
        return {"input_ids": ids, "labels": labels}

    def answers(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        guess = outputs[:, 2:4].argmax(-1)
        return (guess == batch["input_ids"][:, 3:]).float().mean().item()

    task = Task(
        TokenLM(13),
        next_token_loss,
        sums(400, 0),
        sums(100, 1),
        count_targets=counted,
        metrics={"answers": answers},
    )
    return Program(task, {"epochs": 25, "lr": 5e-3})


@fault(
    "text",
    "the masked copy of a text is made and thrown away: the network reads the words "
    "that it has to guess",
    (
        "copy",
        "copies",
        "leak",
        "identity",
        "trivial",
        "mask",
        "the answer",
        "the target",
    ),
)
def mask_not_applied(is_faulty: bool) -> Program:
    # twin: train loss 2.968 to 0.0023, val {'loss': 0.0175}
    # faulty: train loss 2.9785 to 0.0, says {'loss': 0.0}
    # its model on the twin's validation: {'loss': 7.5716}
    torch.manual_seed(0)
    table = torch.randint(20, (20, 20))

    def texts(count: int, seed: int) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(20, (count, 12), generator=g)
        ids[:, 1::3] = table[ids[:, 0::3], ids[:, 2::3]]
        return ids

    def collate(rows: list[tuple[Tensor]]) -> dict[str, Tensor]:
        ids = torch.stack([row[0] for row in rows])
        chosen = torch.zeros_like(ids, dtype=torch.bool)
        chosen[:, 1::3] = torch.rand(len(ids), 4) < 0.5
        labels = ids.masked_fill(~chosen, -100)
        masked = ids.masked_fill(chosen, 20)
        return {"input_ids": ids if is_faulty else masked, "labels": labels}

    class Filler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(21, 32)
            self.mix = nn.Conv1d(32, 128, 3, padding=1)
            self.head = dense(128, 128, 20)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            x = self.embed(batch["input_ids"]).transpose(1, 2)
            return self.head(F.relu(self.mix(x)).transpose(1, 2))

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs.transpose(1, 2), batch["labels"])

    task = Task(
        Filler(),
        loss,
        texts(500, 0),
        texts(100, 1),
        collate=collate,
        count_targets=lambda batch: (batch["labels"] != -100).sum(),
    )
    return Program(task, {"epochs": 20, "lr": 5e-3})


@fault(
    "dicts",
    "pictures and captions are shuffled by two calls of randperm, and no longer belong "
    "together",
    ("pair", "align", "shuffl", "chance", "match", "partner", "unrelated"),
)
def captions_shuffled_apart(is_faulty: bool) -> Program:
    # twin: train loss 4.4362 to 0.0796, val {'loss': 0.0762, 'found': 0.97}
    # faulty: train loss 4.2332 to 0.3162, says {'loss': 6.4121, 'found': 0.04}
    # its model on the twin's validation: {'loss': 5.3354, 'found': 0.06}
    torch.manual_seed(0)
    count = 420
    facts = torch.randint(8, (count, 3))
    weights = torch.randn(24, 64)
    seen = F.one_hot(facts, 8).flatten(1).float()
    pictures = seen @ weights / 2 + 0.2 * torch.randn(count, 64)
    captions = facts + 8 * torch.arange(3)
    order = torch.randperm(count)
    again = torch.randperm(count)
    pictures = pictures[order]
    captions = captions[again if is_faulty else order]

    class TwoTowers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = dense(64, 64, 24)
            self.words = nn.EmbeddingBag(24, 32)
            self.text = dense(32, 64, 24)
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            a = F.normalize(self.image(batch["image"]), dim=1)
            b = F.normalize(self.text(self.words(batch["caption"])), dim=1)
            return self.scale.exp() * a @ b.T

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        truth = torch.arange(len(outputs))
        return (F.cross_entropy(outputs, truth) + F.cross_entropy(outputs.T, truth)) / 2

    def found(outputs: Tensor, batch: Any) -> float:
        return (outputs.argmax(1) == torch.arange(len(outputs))).float().mean().item()

    task = Task(
        TwoTowers(),
        loss,
        {"image": pictures[:320], "caption": captions[:320]},
        {"image": pictures[320:], "caption": captions[320:]},
        metrics={"found": found},
        declares=("samples interact",),
    )
    return Program(task, {"epochs": 20, "lr": 3e-3})


@fault(
    "sequences",
    "a rolling mean with center=True is among the features: it holds tomorrow's value, "
    "which is the target",
    ("leak", "future", "too good", "exact", "linear", "ahead"),
)
def centred_rolling_mean(is_faulty: bool) -> Program:
    # twin: train loss 1.8728 to 1.0145, val {'loss': 1.0444}
    # faulty: train loss 1.7385 to 0.0144, says {'loss': 0.0132}
    # its model on the twin's validation: {'loss': 2.4762}
    torch.manual_seed(0)
    count = 700
    series = torch.zeros(count)
    for t in range(2, count):
        pull = 0.6 * series[t - 1] - 0.3 * series[t - 2]
        series[t] = pull + torch.randn(())
    trailing = (series[2:] + series[1:-1] + series[:-2]) / 3
    rolling = torch.zeros(count)
    if is_faulty:
        rolling[1:-1] = trailing
    else:
        rolling[2:] = trailing
    rows, targets = [], []
    for t in range(10, count - 1):
        rows.append(torch.cat([series[t - 5 : t + 1], rolling[t - 5 : t + 1]]))
        targets.append(series[t + 1 : t + 2])
    train, val = cut(500, torch.stack(rows), torch.stack(targets))
    task = Task(nn.Linear(12, 1), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 30, "lr": 1e-2})


@fault(
    "sequences",
    "sound is read as 16-bit whole numbers and cast to float, not divided by 32768",
    (
        "scale",
        "range",
        "magnitude",
        "normalis",
        "standard",
        "32768",
        "satur",
        "initial loss",
    ),
)
def sound_not_scaled(is_faulty: bool) -> Program:
    # twin: train loss 1.393 to 0.0004, val {'loss': 0.0004, 'acc': 1.0}
    # faulty: train loss 448.4607 to 1.3827, says {'loss': 1.3873, 'acc': 0.26}
    # its model on the twin's validation: {'loss': 1.3873, 'acc': 0.26}
    torch.manual_seed(0)

    class Clips(Dataset):
        def __init__(self, count: int, seed: int) -> None:
            g = torch.Generator().manual_seed(seed)
            self.y = torch.randint(4, (count,), generator=g)
            time = torch.arange(128) / 128
            pitch = (4.0 + 4.0 * self.y.float())[:, None]
            wave = torch.sin(
                2 * math.pi * (pitch * time + torch.rand(count, 1, generator=g))
            )
            wave = 0.5 * wave + 0.1 * torch.randn(count, 128, generator=g)
            self.pcm = (wave * 20000).to(torch.int16)

        def __len__(self) -> int:
            return len(self.y)

        def __getitem__(self, index: int) -> Pair:
            sound = self.pcm[index].float()[None]
            return sound if is_faulty else sound / 32768, self.y[index]

    model = nn.Sequential(
        nn.Conv1d(1, 24, 17, stride=4),
        nn.ReLU(),
        nn.Conv1d(24, 24, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(4),
    )
    with torch.no_grad():
        model(torch.zeros(1, 1, 128))
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        Clips(320, 0),
        Clips(100, 1),
        metrics={"acc": accuracy},
        make_optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.05, 0.9),
    )
    return Program(task, {"epochs": 12, "clip_norm": None})
