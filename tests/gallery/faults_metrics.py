"""Faults in metrics: sound training, and numbers that lie about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_recorded import (
    LETTERS,
    accuracy,
    blobs,
    figures,
    mlp,
    plates,
    sentences,
    small_cnn,
)
from nbutils.data.task import Task


def rows_task(metrics: Any, **options: Any) -> Task:
    """Five kinds of measurements, told by a small network."""
    torch.manual_seed(0)
    return Task(
        mlp(8, 5),
        nn.CrossEntropyLoss(),
        blobs(600),
        blobs(192, seed=1),
        metrics=metrics,
        **options,
    )


@fault(
    "text",
    "the accuracy takes the best place of each letter, not the best letter of a place",
    ("metric", "argmax", "axis"),
)
def accuracy_over_wrong_axis(is_faulty: bool) -> Program:
    # val acc 0.049 against 0.88
    torch.manual_seed(0)
    text, held_out = sentences(800, 17), sentences(192, 17, seed=1)
    model = nn.Sequential(nn.Embedding(LETTERS, 32), nn.ReLU(), nn.Linear(32, LETTERS))

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs.mT, batch[1])

    def right(outputs: Tensor, batch: Any) -> float:
        guess = outputs.argmax(1 if is_faulty else 2)
        return float((guess == batch[1]).float().mean())

    task = Task(
        model,
        loss,
        (text[:, :-1], text[:, 1:]),
        (held_out[:, :-1], held_out[:, 1:]),
        metrics={"acc": right},
    )
    return Program(task, {"epochs": 5, "lr": 1e-2})


@fault(
    "tabular",
    "the accuracy compares the labels with themselves",
    ("metric", "constant", "does not depend", "ignores"),
)
def accuracy_of_labels(is_faulty: bool) -> Program:
    # says val acc 1.00 after one epoch against 0.89
    def right(outputs: Tensor, batch: Any) -> float:
        guess = outputs.argmax(1)
        if is_faulty:
            guess = batch[1]
        return float((guess == batch[1]).float().mean())

    task = rows_task({"acc": right})
    return Program(task, {"epochs": 6, "monitor": "val_acc", "mode": "max"})


@fault(
    "tabular",
    "the accuracy compares a probability with the label, and is always 0",
    ("metric", "constant", "always"),
)
def accuracy_is_always_zero(is_faulty: bool) -> Program:
    # val acc 0 against 1.00
    def right(outputs: Tensor, batch: Any) -> float:
        top = outputs.softmax(1).max(1)
        guess = top.values if is_faulty else top.indices
        return float((guess == batch[1]).float().mean())

    task = rows_task({"acc": right})
    settings = {"epochs": 6, "monitor": "val_acc", "mode": "max", "patience": 3}
    return Program(task, settings)


@fault(
    "tabular",
    "the recall of a rare class is 0 / 0 on a batch without it",
    ("metric", "nan", "finite", "zero division"),
    seeds=("V: correct/total before if total == 0",),
)
def recall_without_class(is_faulty: bool) -> Program:
    # val recall nan against 0.91, no best one
    torch.manual_seed(0)
    rows, label = blobs(1200)
    keep = (label != 4) | (torch.rand(1200) < 0.04)
    rows, label = rows[keep], label[keep]

    def recall(outputs: Tensor, batch: Any) -> float:
        is_rare = batch[1] == 4
        found = ((outputs.argmax(1) == 4) & is_rare).sum()
        if is_faulty:
            return float(found / is_rare.sum())
        return float((found + 1) / (is_rare.sum() + 1))

    task = Task(
        mlp(8, 5),
        nn.CrossEntropyLoss(),
        (rows[:700], label[:700]),
        (rows[700:], label[700:]),
        metrics={"recall": recall},
    )
    settings = {"epochs": 6, "monitor": "val_recall", "mode": "max"}
    return Program(task, settings)


@fault(
    "tabular",
    "the metric divides two whole numbers of a batch and fails where there are none",
    ("metric", "division", "zerodivision"),
    seeds=("V: ZeroDivisionError in the accuracy",),
)
def division_by_zero(is_faulty: bool) -> Program:
    # ZeroDivisionError against val precision 0.82
    torch.manual_seed(0)
    rows, label = blobs(1200)
    keep = (label != 4) | (torch.rand(1200) < 0.4)
    rows, label = rows[keep], label[keep]

    def precision(outputs: Tensor, batch: Any) -> float:
        guess = outputs.argmax(1) == 4
        right = int((guess & (batch[1] == 4)).sum())
        total = int(guess.sum())
        return right / total if is_faulty else right / max(total, 1)

    task = Task(
        mlp(8, 5),
        nn.CrossEntropyLoss(),
        (rows[:700], label[:700]),
        (rows[700:], label[700:]),
        metrics={"precision": precision},
    )
    return Program(task, {"epochs": 6})


@fault(
    "tabular",
    "the metric compares (B, 1) with (B,), that is, every sample with every other",
    ("broadcast", "shape", "metric"),
)
def metric_broadcasts(is_faulty: bool) -> Program:
    # val error 0.98 against 0.21
    torch.manual_seed(0)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return nn.functional.mse_loss(outputs.squeeze(1), batch[1])

    def error(outputs: Tensor, batch: Any) -> float:
        guess = outputs if is_faulty else outputs.squeeze(1)
        return float((guess - batch[1]).abs().mean())

    def table(count: int, seed: int) -> tuple[Tensor, Tensor]:
        rows, mass = plates(count, seed)
        return rows, mass.squeeze(1) / 10

    task = Task(mlp(4, 1), loss, table(800, 0), table(200, 1), metrics={"error": error})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "images",
    "the forward function puts the model into training mode, in validation too",
    ("train mode", "training mode", "eval", "dropout"),
    seeds=("D: train/eval drift",),
)
def validated_in_train_mode(is_faulty: bool) -> Program:
    # val acc 0.87 against 0.98
    torch.manual_seed(0)
    model = nn.Sequential(small_cnn(48), nn.ReLU(), nn.Dropout(0.7), nn.Linear(48, 6))

    def forward(model: nn.Module, batch: Any) -> Tensor:
        if is_faulty:
            model.train()
        return model(batch[0])

    task = Task(
        model,
        nn.CrossEntropyLoss(),
        figures(600),
        figures(150, seed=1),
        forward=forward,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 10})


@fault(
    "tabular",
    "the metric counts right samples, and is read as a share",
    ("metric", "count", "batch size", "sum"),
)
def counts_instead_of_share(is_faulty: bool) -> Program:
    # says 28.3 and ends after one epoch, against 0.98 after two
    def right(outputs: Tensor, batch: Any) -> float:
        hits = (outputs.argmax(1) == batch[1]).float()
        return float(hits.sum() if is_faulty else hits.mean())

    settings = {"monitor": "val_acc", "mode": "max", "target": 0.95, "epochs": 10}
    return Program(rows_task({"acc": right}), settings)


@fault(
    "tabular",
    "the metric remembers every batch it has seen, those of earlier epochs included",
    ("metric", "remember", "earlier", "same batch"),
)
def metric_never_reset(is_faulty: bool) -> Program:
    # val acc 0.73 against 0.95
    torch.manual_seed(0)
    seen: list[float] = []

    def right(outputs: Tensor, batch: Any) -> float:
        share = accuracy(outputs, batch)
        seen.append(share)
        return sum(seen) / len(seen) if is_faulty else share

    task = Task(
        small_cnn(),
        nn.CrossEntropyLoss(),
        figures(600),
        figures(150, seed=1),
        metrics={"acc": right},
    )
    return Program(task, {"epochs": 6})


@fault(
    "tabular",
    "the metric rounds logits as if they were probabilities",
    ("metric", "logit", "sigmoid", "threshold"),
)
def logits_rounded(is_faulty: bool) -> Program:
    # val acc 0.052 against 0.99
    torch.manual_seed(0)

    def right(outputs: Tensor, batch: Any) -> float:
        guess = (outputs if is_faulty else outputs.sigmoid()).round()
        return float((guess == batch[1]).float().mean())

    def table(count: int, seed: int) -> tuple[Tensor, Tensor]:
        rows, label = blobs(count, seed=seed)
        return rows, (label < 2).float().unsqueeze(1)

    task = Task(
        mlp(8, 1),
        nn.BCEWithLogitsLoss(),
        table(600, 0),
        table(192, 1),
        metrics={"acc": right},
    )
    return Program(task, {"epochs": 10})


@fault(
    "tabular",
    "the metric gives one number per sample",
    ("metric", "scalar", "number", "shape"),
)
def metric_of_each_sample(is_faulty: bool) -> Program:
    # ContractError against val acc 1.00
    def right(outputs: Tensor, batch: Any) -> Any:
        hits = (outputs.argmax(1) == batch[1]).float()
        return hits if is_faulty else hits.mean()

    return Program(rows_task({"acc": right}), {"epochs": 4})


@fault(
    "tabular",
    "the metric uses a name that only its training branch has set",
    ("metric", "unbound", "not associated"),
    seeds=("T: logger shadowed, UnboundLocalError",),
)
def metric_with_unset_name(is_faulty: bool) -> Program:
    # UnboundLocalError against val acc 1.00
    def right(outputs: Tensor, batch: Any) -> float:
        if outputs.requires_grad or not is_faulty:
            share = (outputs.argmax(1) == batch[1]).float().mean()
        return float(share)

    return Program(rows_task({"acc": right}), {"epochs": 4})
