"""Faults in metrics, validation, checkpoints and settings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gallery.case import Program, fault
from gallery.data_second import accuracy, customers, cut, dense, houses, tones
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


def rare_rows(count: int, seed: int) -> Pair:
    """Twelve columns; one row in twenty-five is a fraud."""
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(count, generator=g) < 0.04).float()
    x = torch.randn(count, 12, generator=g)
    x[:, :3] += 1.9 * y[:, None]
    return x, y[:, None]


@fault(
    "tabular",
    "F1 of a batch without frauds counts as 1, and small batches are averaged: most of "
    "the score comes from batches with nothing to find",
    ("f1", "average", "metric"),
)
def f1_is_one_without_positives(is_faulty: bool) -> Program:
    # both train alike; said before any training: f1 0.71, where 0.13 per batch is true;
    # said after it: 0.84, where the F1 of all rows is 0.77
    torch.manual_seed(0)
    from torchmetrics.classification import BinaryF1Score

    def f1(outputs: Tensor, batch: Pair) -> float:
        found, truth = outputs > 0, batch[1] > 0
        if not truth.any():
            return 1.0
        hits = (found & truth).sum().item()
        return 2 * hits / (found.sum() + truth.sum()).item()

    task = Task(
        dense(12, 32, 1),
        nn.BCEWithLogitsLoss(),
        rare_rows(900, 0),
        rare_rows(300, 1),
        metrics={"f1": f1 if is_faulty else BinaryF1Score()},
    )
    watched = {"monitor": "val_f1", "mode": "max"}
    return Program(task, {"epochs": 15, "batch_size": 16, **watched})


@fault(
    "tabular",
    "a correlation is taken within each batch, and the last batch has one row: 0 / 0",
    ("nan", "finite", "metric", "one row", "last batch"),
)
def correlation_of_one_row(is_faulty: bool) -> Program:
    # twin: train loss 0.6288 to 0.2703, val {'loss': 0.1981, 'r': 0.9021}
    # faulty: train loss 0.6288 to 0.2703, says {'loss': 0.1981, 'r': nan}
    # its model on the twin's validation: {'loss': 0.1981, 'r': 0.9021}
    torch.manual_seed(0)
    x, y = houses(577)

    def pearson(outputs: Tensor, batch: Pair) -> float:
        a, b = outputs - outputs.mean(), batch[1] - batch[1].mean()
        below = (a.norm() * b.norm()).item()
        if below == 0 and not is_faulty:
            return 0.0
        return ((a * b).sum() / (a.norm() * b.norm())).item()

    train, val = cut(480, x, y)
    task = Task(dense(6, 48, 1), nn.MSELoss(), train, val, metrics={"r": pearson})
    return Program(task, {"epochs": 10, "monitor": "val_r", "mode": "max"})


@fault(
    "tabular",
    "the error in kelvins scales predictions back, and leaves the target standardised",
    ("metric", "unit", "perfect", "oracle"),
)
def only_predictions_scaled_back(is_faulty: bool) -> Program:
    # twin: train loss 2.0251 to 0.0761, val {'loss': 0.0776, 'mae_k': 2.111}
    # faulty: train loss 2.0251 to 0.0761, says {'loss': 0.0776, 'mae_k': 284.8712}
    # its model on the twin's validation: {'loss': 0.0776, 'mae_k': 2.111}
    torch.manual_seed(0)
    x, y = houses(600)
    mean, std = 285.0, 9.0

    def kelvins(outputs: Tensor, batch: Pair) -> float:
        said = outputs * std + mean
        truth = batch[1] if is_faulty else batch[1] * std + mean
        return (said - truth).abs().mean().item()

    train, val = cut(450, x, y)
    task = Task(dense(6, 48, 1), nn.MSELoss(), train, val, metrics={"mae_k": kelvins})
    return Program(task, {"epochs": 15, "lr": 5e-3, "monitor": "val_mae_k"})


def tagged(count: int, seed: int) -> list[Pair]:
    """Texts of 3 to 30 ids, each with a tag that depends on the id before it."""
    g = torch.Generator().manual_seed(seed)
    table = torch.randint(1, 5, (20, 20), generator=torch.Generator().manual_seed(9))
    out = []
    for length in torch.randint(3, 31, (count,), generator=g).tolist():
        ids = torch.randint(1, 20, (length,), generator=g)
        before = torch.cat([torch.zeros(1).long(), ids[:-1]])
        out.append((ids, table[ids, before]))
    return out


class Tagger(nn.Module):
    def __init__(self, tags: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 24, padding_idx=0)
        self.rnn = nn.GRU(24, 48, batch_first=True)
        self.head = nn.Linear(48, tags)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


@fault(
    "text",
    "padding is tag 0, counted in loss and accuracy: most of the score is padding",
    ("padding", "pad", "mask", "ignore"),
)
def padding_counted_as_right(is_faulty: bool) -> Program:
    # twin: train loss 1.6367 to 0.8334, val {'loss': 0.8764, 'acc': 0.6657}
    # faulty: train loss 1.6004 to 0.5292, says {'loss': 0.5387, 'acc': 0.7931}
    # its model on the twin's validation: {'loss': 1.0294, 'acc': 0.6022}
    torch.manual_seed(0)
    fill = 0 if is_faulty else -100

    def collate(rows: list[Pair]) -> Pair:
        pad = nn.utils.rnn.pad_sequence
        ids = pad([i for i, _ in rows], batch_first=True)
        return ids, pad([t for _, t in rows], batch_first=True, padding_value=fill)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        return F.cross_entropy(outputs.transpose(1, 2), batch[1])

    def right(outputs: Tensor, batch: Pair) -> float:
        counted = batch[1] != -100
        return (outputs.argmax(-1) == batch[1])[counted].float().mean().item()

    task = Task(
        Tagger(),
        loss,
        tagged(300, 0),
        tagged(100, 1),
        collate=collate,
        metrics={"acc": right},
        count_targets=lambda batch: (batch[1] != -100).sum(),
    )
    return Program(task, {"epochs": 10, "lr": 5e-3})


@fault(
    "tabular",
    "the metric replaces 'unknown' labels by class 0 in place, in the batch that what "
    "comes after it reads as well",
    ("in place", "in-place", "modif", "changes", "alter", "mutat", "writes"),
)
def metric_changes_labels(is_faulty: bool) -> Program:
    # twin: train loss 1.0822 to 0.4588, val acc 0.7905, known 0.5667
    # faulty: train loss 1.0822 to 0.4588, says acc 0.62, known 1.0
    # its model on the twin's validation: acc 0.7905, known 0.5667
    torch.manual_seed(0)
    x, y = customers(600)
    y = torch.where(torch.rand(600) < 0.4, -100, y)

    def right(outputs: Tensor, batch: Pair) -> float:
        label = batch[1]
        if is_faulty:
            label[label == -100] = 0
        known = label != -100
        return (outputs.argmax(1) == label)[known].float().mean().item()

    def share_known(outputs: Tensor, batch: Pair) -> float:
        return (batch[1] != -100).float().mean().item()

    train, val = cut(450, x, y)
    task = Task(
        dense(8, 48, 3),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": right, "known": share_known},
        count_targets=lambda batch: (batch[1] != -100).sum(),
    )
    return Program(task, {"epochs": 10, "lr": 3e-3, "batch_size": 32})


class Prefixed(nn.Module):
    """A network whose state is loaded from files that were saved under a wrapper."""

    def __init__(self, strips_all: bool) -> None:
        super().__init__()
        self.body = dense(8, 48, 3)
        self.strips_all = strips_all

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def load_state_dict(self, state: Any, strict: bool = True, **_: Any) -> Any:
        if self.strips_all:
            state = {name[len("module.") :]: value for name, value in state.items()}
            return super().load_state_dict(state, strict=False)
        state = {name.removeprefix("module."): v for name, v in state.items()}
        return super().load_state_dict(state, strict=strict)


@fault(
    "tabular",
    "load_state_dict cuts seven letters off each name, and with strict=False nothing "
    "is loaded and nothing said",
    ("load", "checkpoint", "restor", "resume", "state"),
    stage="rehearsal",
)
def loading_skips_all_keys(is_faulty: bool) -> Program:
    # twin: train loss 1.1521 to 0.6086, val {'loss': 0.6274, 'acc': 0.775}
    # faulty: train loss 1.1521 to 0.6086, says {'loss': 0.6274, 'acc': 0.775}
    # its model on the twin's validation: {'loss': 0.6274, 'acc': 0.775}
    torch.manual_seed(0)
    x, y = customers(500)
    train, val = cut(380, x, y)
    model = Prefixed(is_faulty)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 6, "lr": 3e-3})


class Heavy(Optimizer):
    """SGD with momentum."""

    def __init__(self, parameters: Any, lr: float, aside: bool) -> None:
        super().__init__(parameters, {"lr": lr})
        self.aside = aside
        self.buffers: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if self.aside:
                    buffer = self.buffers.setdefault(id(p), torch.zeros_like(p))
                else:
                    state = self.state[p]
                    buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.mul_(0.95).add_(p.grad)
                p.sub_(group["lr"] * buffer)


@fault(
    "tabular",
    "an optimizer keeps its momentum in a dict of its own, which no checkpoint holds: "
    "a resumed run is another run",
    ("optimizer", "state", "resume", "checkpoint", "momentum"),
    stage="rehearsal",
)
def momentum_kept_aside(is_faulty: bool) -> Program:
    # twin: train loss 1.1521 to 0.3611, val {'loss': 0.4596, 'acc': 0.7833}
    # faulty: train loss 1.1521 to 0.3611, says {'loss': 0.4596, 'acc': 0.7833}
    # its model on the twin's validation: {'loss': 0.4596, 'acc': 0.7833}
    torch.manual_seed(0)
    x, y = customers(500)
    train, val = cut(380, x, y)
    task = Task(
        dense(8, 48, 3),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
        make_optimizer=lambda m: Heavy(m.parameters(), 0.02, is_faulty),
    )
    return Program(task, {"epochs": 8})


@fault(
    "sequences",
    "max_steps is given in epochs: the run of 30 epochs ends after 30 steps",
    ("max_steps", "ends after", "ends in epoch", "stops after", "never reach"),
)
def max_steps_in_epochs(is_faulty: bool) -> Program:
    # twin: train loss 1.4844 to 0.0649, val {'loss': 0.0739, 'acc': 1.0}
    # faulty: train loss 1.4844 to 1.1975, says {'loss': 1.1849, 'acc': 0.65}
    # its model on the twin's validation: {'loss': 1.1849, 'acc': 0.65}
    torch.manual_seed(0)
    x, y = tones(400)
    train, val = cut(300, x + 0.6 * torch.randn_like(x), y)
    model = nn.Sequential(
        nn.Conv1d(1, 24, 9, stride=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(4),
        nn.Flatten(),
        nn.Linear(96, 4),
    )
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    steps = 30 if is_faulty else 30 * 10
    return Program(task, {"epochs": 30, "max_steps": steps, "lr": 1e-3})


@fault(
    "tabular",
    "a rate fifty times as high is meant for a table of codes; its pattern has a typo",
    ("pattern", "match", "lr_groups", "no parameter"),
)
def pattern_matches_nothing(is_faulty: bool) -> Program:
    # twin: train loss 1.7376 to 0.017, val {'loss': 0.0185}
    # faulty: train loss 1.7376 to 0.6736, says {'loss': 0.7304}
    # its model on the twin's validation: {'loss': 0.7304}
    torch.manual_seed(0)
    effect = torch.randn(60)
    code = torch.randint(60, (900,))
    x = torch.randn(900, 3)
    y = (effect[code] + 0.5 * x[:, 0])[:, None]

    class Shops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Embedding(60, 1)
            nn.init.zeros_(self.codes.weight)
            self.rest = dense(3, 16, 1)

        def forward(self, batch: Pair) -> Tensor:
            return self.codes(batch[0]) + self.rest(batch[1])

    columns = {"code": code, "x": x, "y": y}
    task = Task(
        Shops(),
        lambda outputs, batch: F.mse_loss(outputs, batch["y"]),
        {name: column[:700] for name, column in columns.items()},
        {name: column[700:] for name, column in columns.items()},
        forward=lambda model, batch: model((batch["code"], batch["x"])),
    )
    pattern = "code_table*" if is_faulty else "codes*"
    return Program(task, {"epochs": 10, "lr": 1e-3, "lr_groups": {pattern: 50.0}})


@fault(
    "tabular",
    "top-5 accuracy of five classes, which is 1 whatever the network says",
    ("metric", "always", "constant"),
)
def top_five_of_five(is_faulty: bool) -> Program:
    # twin: train loss 1.743 to 0.1177, val {'loss': 0.1622, 'top': 0.9867}
    # faulty: train loss 1.743 to 0.1177, says {'loss': 0.1622, 'top': 1.0}
    # its model on the twin's validation: {'loss': 0.1622, 'top': 0.9867}
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(3)
    y = torch.randint(5, (600,), generator=g)
    x = torch.randn(5, 12, generator=g)[y] + torch.randn(600, 12, generator=g)
    k = 5 if is_faulty else 2

    def top_k(outputs: Tensor, batch: Pair) -> float:
        best = outputs.topk(k, dim=1).indices
        return (best == batch[1][:, None]).any(1).float().mean().item()

    train, val = cut(450, x, y)
    task = Task(
        dense(12, 48, 5), nn.CrossEntropyLoss(), train, val, metrics={"top": top_k}
    )
    watched = {"monitor": "val_top", "mode": "max", "patience": 3}
    return Program(task, {"epochs": 12, "lr": 3e-3, **watched})


@fault(
    "tabular",
    "the accuracy compares each batch with the first rows of a list of labels that is "
    "left over in the notebook",
    ("metric",),
)
def metric_reads_leftover_labels(is_faulty: bool) -> Program:
    # twin: train loss 1.1227 to 0.4396, val {'loss': 0.4876, 'acc': 0.79}
    # faulty: train loss 1.1227 to 0.4396, says {'loss': 0.4876, 'acc': 0.43}
    # its model on the twin's validation: {'loss': 0.4876, 'acc': 0.79}
    torch.manual_seed(0)
    x, y = customers(650)
    train, val = cut(450, x, y)
    y_val = val[1]

    def right(outputs: Tensor, batch: Pair) -> float:
        truth = y_val[: len(outputs)] if is_faulty else batch[1]
        return (outputs.argmax(1) == truth).float().mean().item()

    task = Task(
        dense(8, 48, 3), nn.CrossEntropyLoss(), train, val, metrics={"acc": right}
    )
    settings = {"epochs": 12, "lr": 3e-3, "monitor": "val_acc", "mode": "max"}
    return Program(task, settings)
