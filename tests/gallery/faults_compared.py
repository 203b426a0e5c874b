"""Faults in what a loss compares: pairs, views, terms, letters, padding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gallery.case import Program, fault
from gallery.data_second import (
    accuracy,
    customers,
    cut,
    dense,
    tones,
)
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


@fault(
    "sequences",
    "CTC's blank is number 0, which is a letter as well",
    ("blank", "ctc"),
)
def blank_is_a_letter(is_faulty: bool) -> Program:
    # twin: train loss 6.7768 to 0.0209, val {'loss': 0.0476, 'words': 0.89}
    # faulty: train loss 7.2964 to -0.7918, says {'loss': -0.7329, 'words': 0.33}
    # its model on the twin's validation: {'loss': 10.235, 'words': 0.08}
    torch.manual_seed(0)
    letters, steps, word = 5, 24, 4

    def speech(count: int, seed: int) -> Pair:
        g = torch.Generator().manual_seed(seed)
        text = torch.randint(letters, (count, word), generator=g)
        again = text[:, 1:] == text[:, :-1]
        text[:, 1:] = torch.where(again, (text[:, 1:] + 1) % letters, text[:, 1:])
        sound = F.one_hot(text, letters).float().repeat_interleave(steps // word, 1)
        return sound + 0.3 * torch.randn(sound.shape, generator=g), text

    class Listener(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(letters, 32, batch_first=True, bidirectional=True)
            self.head = nn.Linear(64, letters + 1)

        def forward(self, sound: Tensor) -> Tensor:
            return self.head(self.rnn(sound)[0]).log_softmax(-1)

    blank = 0 if is_faulty else letters

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        count = len(outputs)
        lengths = torch.full((count,), steps), torch.full((count,), word)
        return F.ctc_loss(outputs.transpose(0, 1), batch[1], *lengths, blank=blank)

    def words(outputs: Tensor, batch: Pair) -> float:
        hits = 0
        for path, text in zip(outputs.argmax(-1), batch[1], strict=True):
            said = [n for n in path.unique_consecutive().tolist() if n != blank]
            hits += said == text.tolist()
        return hits / len(outputs)

    task = Task(
        Listener(), loss, speech(300, 0), speech(100, 1), metrics={"words": words}
    )
    return Program(task, {"epochs": 15, "lr": 1e-2})


class Triplets(Dataset):
    """Two rows of one class, and one of another."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        g = torch.Generator().manual_seed(5)
        self.rows = []
        for n in range(len(x)):
            same = torch.nonzero(y == y[n]).flatten()
            other = torch.nonzero(y != y[n]).flatten()
            i = same[torch.randint(len(same), (1,), generator=g)]
            j = other[torch.randint(len(other), (1,), generator=g)]
            self.rows.append((int(i), int(j)))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        same, other = self.rows[index]
        return {
            "anchor": self.x[index],
            "positive": self.x[same],
            "negative": self.x[other],
        }


@fault(
    "dicts",
    "positive and negative are given to the triplet loss in the wrong order",
    ("negative", "positive", "swap", "triplet", "collaps", "wrong direction"),
)
def triplets_swapped(is_faulty: bool) -> Program:
    # twin: train loss 0.0491 to 0.0, val {'loss': 0.0133, 'order': 0.975}
    # faulty: train loss 0.868 to 0.1924, says {'loss': 0.3627, 'order': 0.475}
    # its model on the twin's validation: {'loss': 0.3189, 'order': 0.475}
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(2)
    y = torch.randint(5, (500,), generator=g)
    x = torch.randn(5, 12, generator=g)[y] + 0.8 * torch.randn(500, 12, generator=g)

    def forward(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: F.normalize(model(rows), dim=1) for name, rows in batch.items()}

    def loss(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        a, p, n = outputs["anchor"], outputs["positive"], outputs["negative"]
        if is_faulty:
            p, n = n, p
        return F.triplet_margin_loss(a, p, n, margin=0.3)

    def order(outputs: dict[str, Tensor], batch: Any) -> float:
        near = (outputs["anchor"] - outputs["positive"]).norm(dim=1)
        far = (outputs["anchor"] - outputs["negative"]).norm(dim=1)
        return (near < far).float().mean().item()

    task = Task(
        dense(12, 32, 8),
        loss,
        Triplets(x[:380], y[:380]),
        Triplets(x[380:], y[380:]),
        forward=forward,
        metrics={"order": order},
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


class TwoCrops(Dataset):
    """Two noisy crops of the same tone."""

    def __init__(self, count: int, seed: int) -> None:
        self.x = tones(count, length=80, classes=8, seed=seed)[0]
        g = torch.Generator().manual_seed(seed)
        speed = 1 + torch.rand(count, 1, 1, generator=g)
        self.x = self.x * speed

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        a, b = torch.randint(16, (2,)).tolist()
        row = self.x[index]
        return row[:, a : a + 64], row[:, b : b + 64]


def tower() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(1, 16, 7, stride=2),
        nn.ReLU(),
        nn.Conv1d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(128, 16),
    )


def both_crops(model: nn.Module, batch: Pair) -> tuple[Tensor, Tensor]:
    a, b = (F.normalize(model(x), dim=1) for x in batch)
    return a, b


def found_partner(outputs: Pair, batch: Any) -> float:
    nearest = (outputs[0] @ outputs[1].T).argmax(1)
    return (nearest == torch.arange(len(nearest))).float().mean().item()


@fault(
    "sequences",
    "a typo compares the first views with themselves: the diagonal wins by definition, "
    "and the second view is never looked at",
    (
        "itself",
        "second",
        "unused",
        "trivial",
        "never read",
        "ignored",
        "not used",
        "not reach",
        "no influence",
    ),
)
def view_against_itself(is_faulty: bool) -> Program:
    # twin: train loss 3.2653 to 0.3931, val {'loss': 0.3689, 'found': 0.9583}
    # faulty: train loss 1.1997 to 0.0093, says {'loss': 0.0102, 'found': 0.25}
    # its model on the twin's validation: {'loss': 5.666, 'found': 0.25}
    torch.manual_seed(0)

    def loss(outputs: Pair, batch: Any) -> Tensor:
        z1, z2 = outputs
        z2 = z1 if is_faulty else z2
        return F.cross_entropy(z1 @ z2.T / 0.07, torch.arange(len(z1)))

    task = Task(
        tower(),
        loss,
        TwoCrops(300, 0),
        TwoCrops(96, 1),
        forward=both_crops,
        metrics={"found": found_partner},
        declares=("samples interact",),
    )
    return Program(task, {"epochs": 15, "lr": 3e-3, "drop_last": True})


@fault(
    "sequences",
    "cosines are multiplied by the temperature, not divided by it: all candidates stay "
    "equally likely",
    (
        "temperature",
        "uniform",
        "chance",
        "barely",
        "too narrow",
        "equally likely",
        "scale",
    ),
)
def temperature_multiplied(is_faulty: bool) -> Program:
    # twin: train loss 3.2653 to 0.3931, val {'loss': 0.3689, 'found': 0.9583}
    # faulty: train loss 3.4601 to 3.3984, says {'loss': 3.4013, 'found': 0.4792}
    # its model on the twin's validation: {'loss': 1.8214, 'found': 0.4688}
    torch.manual_seed(0)

    def loss(outputs: Pair, batch: Any) -> Tensor:
        cosine = outputs[0] @ outputs[1].T
        logits = cosine * 0.07 if is_faulty else cosine / 0.07
        return F.cross_entropy(logits, torch.arange(len(logits)))

    task = Task(
        tower(),
        loss,
        TwoCrops(300, 0),
        TwoCrops(96, 1),
        forward=both_crops,
        metrics={"found": found_partner},
        declares=("samples interact",),
    )
    return Program(task, {"epochs": 15, "lr": 3e-3, "drop_last": True})


@fault(
    "tabular",
    "an L1 penalty is summed over all weights, times 1, and outweighs the data",
    ("regular", "penalty", "dominat", "outweigh", "share", "l1"),
)
def penalty_outweighs(is_faulty: bool) -> Program:
    # twin: train loss 1.1297 to 0.2914, val {'loss': 0.4188, 'acc': 0.84}
    # faulty: train loss 88.9627 to 1.4476, says {'loss': 1.4364, 'acc': 0.3867}
    # its model on the twin's validation: {'loss': 1.1074, 'acc': 0.3867}
    torch.manual_seed(0)
    x, y = customers(600)
    train, val = cut(450, x, y)
    model = dense(8, 48, 3)

    def loss(outputs: Tensor, batch: Pair) -> dict[str, Tensor]:
        size = sum(p.abs().sum() for p in model.parameters())
        return {"ce": F.cross_entropy(outputs, batch[1]), "l1": size}

    task = Task(
        model,
        loss,
        train,
        val,
        metrics={"acc": accuracy},
        loss_weights={"l1": 1.0 if is_faulty else 1e-4},
    )
    return Program(task, {"epochs": 15, "lr": 5e-3})


@fault(
    "dicts",
    "the second term of a loss was copied from the first, and reads the first head: "
    "the second head learns nothing",
    (
        "head",
        "no gradient",
        "unused",
        "gets no",
        "not reach",
        "without gradient",
        "never trained",
        "tenure",
    ),
)
def copied_term(is_faulty: bool) -> Program:
    # twin: train loss 7.4043 to 0.0995, val {'loss': 0.1643, 'tenure_mae': 0.2403}
    # faulty: train loss 1.7288 to 0.0462, says {'loss': 0.0685, 'tenure_mae': 1.4026}
    # its model on the twin's validation: {'loss': 3.7803, 'tenure_mae': 1.4026}
    torch.manual_seed(0)
    x, _ = customers(600)
    value = (x[:, 0] * x[:, 3] + 0.5 * x[:, 6])[:, None]

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(dense(8, 48, 48), nn.ReLU())
            self.value = nn.Linear(48, 1)
            self.tenure = nn.Linear(48, 1)

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            h = self.body(batch["x"])
            return {"value": self.value(h), "tenure": self.tenure(h)}

    def loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        second = "value" if is_faulty else "tenure"
        return {
            "value": F.mse_loss(outputs["value"], batch["value"]),
            "tenure": F.mse_loss(outputs[second], batch[second]),
        }

    def tenure_error(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> float:
        return (outputs["tenure"] - batch["tenure"]).abs().mean().item()

    tenure = (x[:, 1] - x[:, 2] ** 2)[:, None]
    columns = {"x": x, "value": value, "tenure": tenure}
    train = {name: column[:450] for name, column in columns.items()}
    val = {name: column[450:] for name, column in columns.items()}
    task = Task(TwoHeads(), loss, train, val, metrics={"tenure_mae": tenure_error})
    return Program(task, {"epochs": 15, "lr": 5e-3})


@fault(
    "sequences",
    "the loss mask is one on padding and zero on real steps",
    ("mask", "padding", "invert"),
)
def loss_on_padding_only(is_faulty: bool) -> Program:
    # twin: train loss 2.3776 to 0.0548, val {'loss': 0.0566}
    # faulty: train loss 0.0286 to 0.0, says {'loss': 0.0}
    # its model on the twin's validation: {'loss': 2.5679}
    torch.manual_seed(0)

    def rides(count: int, seed: int) -> list[Pair]:
        g = torch.Generator().manual_seed(seed)
        out = []
        for length in torch.randint(10, 30, (count,), generator=g).tolist():
            x = torch.randn(length, 3, generator=g)
            y = (x[:, 0].cumsum(0) / 3 + x[:, 1] * x[:, 2])[:, None]
            out.append((x, y))
        return out

    def collate(rows: list[Pair]) -> dict[str, Tensor]:
        longest = max(len(x) for x, _ in rows)
        is_padding = torch.ones(len(rows), longest)
        xs, ys = torch.zeros(len(rows), longest, 3), torch.zeros(len(rows), longest, 1)
        for n, (x, y) in enumerate(rows):
            xs[n, : len(x)], ys[n, : len(x)], is_padding[n, : len(x)] = x, y, 0
        return {"x": xs, "y": ys, "mask": is_padding if is_faulty else 1 - is_padding}

    class Follower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 32, batch_first=True)
            self.head = dense(32, 32, 1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.head(self.rnn(batch["x"])[0])

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        error = (outputs - batch["y"]).pow(2).squeeze(-1)
        return (error * batch["mask"]).sum() / batch["mask"].sum().clamp(min=1)

    task = Task(Follower(), loss, rides(300, 0), rides(80, 1), collate=collate)
    return Program(task, {"epochs": 20, "lr": 5e-3})
