"""Faults of axes: what mixes samples, times and channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gallery.case import Program, fault
from gallery.data_classic import (
    absolute_error,
    accuracy,
    digits,
    reviews,
    shapes,
    tumours,
    waves,
)
from nbutils.data.task import Task


@fault(
    "images",
    "images (H, W, C) are viewed as (C, H, W) instead of permuted",
    ("permute", "view", "reshape", "scrambl"),
)
def view_instead_of_permute(is_faulty: bool) -> Program:
    # val pixel accuracy 0.826 against 0.984
    torch.manual_seed(0)

    def channels_last(samples: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        images = torch.stack([sample["image"] for sample in samples])
        masks = torch.stack([sample["mask"] for sample in samples])
        return images.permute(0, 2, 3, 1).contiguous(), masks

    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 3, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            size = (len(x), 3, 16, 16)
            return self.net(x.view(size) if is_faulty else x.permute(0, 3, 1, 2))

    train, val = (channels_last(part) for part in shapes())
    task = Task(
        Segmenter(),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"pixel_accuracy": accuracy},
    )
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "sequences",
    "the states (T, B, H) are viewed as (B, T, H) instead of transposed",
    ("other samples", "interact", "companions", "view"),
)
def time_and_batch_mixed_by_view(is_faulty: bool) -> Program:
    # val accuracy 0.29 against 0.997
    torch.manual_seed(1)
    train, val = waves(classes=4)

    class RNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 32)  # batch_first=False
            self.fc = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.gru(x.transpose(0, 1))
            if is_faulty:
                states = states.reshape(x.shape[0], x.shape[1], -1)
            else:
                states = states.transpose(0, 1)
            return self.fc(states.max(dim=1).values)

    task = Task(
        RNN(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 6, "lr": 5e-3})


@fault(
    "text",
    "the last states (2, B, H) of both directions are viewed as (B, 2 H)",
    ("other samples", "interact", "companions", "view"),
)
def directions_viewed_into_batch(is_faulty: bool) -> Program:
    # val accuracy 0.502 against 0.952
    torch.manual_seed(2)
    train, val = reviews()

    class BiGRU(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(40, 24)
            self.gru = nn.GRU(24, 24, batch_first=True, bidirectional=True)
            self.head = nn.Linear(48, 2)

        def forward(self, ids: Tensor) -> Tensor:
            _, last = self.gru(self.embed(ids))
            if is_faulty:
                return self.head(last.view(len(ids), -1))
            return self.head(torch.cat([last[0], last[1]], dim=1))

    task = Task(
        BiGRU(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "images",
    "the view before the head counts too few features and spills into the batch",
    ("shape", "batch size", "batch_size", "view"),
)
def flattened_over_batch(is_faulty: bool) -> Program:
    # the run stops with a ValueError, against val accuracy 0.859
    torch.manual_seed(3)
    train, val = digits()

    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
            self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
            self.features = 16 * 2 * 2 if is_faulty else 16 * 4 * 4
            self.fc = nn.Linear(self.features, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.conv1(x))
            x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
            return self.fc(x.view(-1, self.features))

    task = Task(
        LeNet(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 4})


@fault(
    "sequences",
    "a transformer without batch_first gets (B, T, F): samples attend to each other",
    ("other samples", "interact", "mix", "batch_first"),
)
def attention_over_the_batch(is_faulty: bool) -> Program:
    # val mae 0.583 against 0.0259
    torch.manual_seed(4)
    count = 900
    time = torch.arange(30) / 30
    swing = torch.sin(6.2832 * (2 * time + torch.rand(count, 1)))
    level = 2 * torch.randn(count, 1)  # what each sensor adds to its series
    x = (swing + level)[..., None] + 0.05 * torch.randn(count, 30, 3)

    class Detrender(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(3, 32)
            layer = nn.TransformerEncoderLayer(
                32, 4, 64, dropout=0.0, batch_first=not is_faulty
            )
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.project(x))).squeeze(2)

    task = Task(
        Detrender(),
        nn.MSELoss(),
        (x[300:], swing[300:]),
        (x[:300], swing[:300]),
        metrics={"mae": absolute_error},
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


@fault(
    "text",
    "attention weights are a softmax over the batch; validation goes one by one",
    ("other samples", "interact", "mix", "softmax"),
)
def attention_softmax_over_batch(is_faulty: bool) -> Program:
    # val accuracy 0.801 against 0.842, val loss 7.07 against 0.378
    torch.manual_seed(5)
    train, val = reviews()

    class AttentionPool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(40, 32)
            self.conv = nn.Conv1d(32, 32, 2)
            self.score = nn.Linear(32, 1)
            self.head = nn.Linear(32, 2)

        def forward(self, ids: Tensor) -> Tensor:
            x = functional.relu(self.conv(self.embed(ids).transpose(1, 2)))
            x = x.transpose(1, 2)
            weights = functional.softmax(self.score(x), dim=0 if is_faulty else 1)
            return self.head((weights * x).sum(1))

    task = Task(
        AttentionPool(),
        nn.CrossEntropyLoss(),
        train,
        DataLoader(TensorDataset(*val), batch_size=1),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "tabular",
    "features are standardised with the statistics of the batch, also in validation",
    ("other samples", "interact", "mix", "single sample"),
)
def standardised_by_the_batch(is_faulty: bool) -> Program:
    # val accuracy 0.592 against 0.982
    torch.manual_seed(6)
    train, val = tumours()
    mean, std = train[0].mean(0), train[0].std(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))

        def forward(self, x: Tensor) -> Tensor:
            if is_faulty:
                return self.net((x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-6))
            return self.net((x - mean) / std)

    task = Task(
        Net(),
        nn.CrossEntropyLoss(),
        train,
        DataLoader(TensorDataset(*val), batch_size=1),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 6, "lr": 3e-3})


@fault(
    "sequences",
    "the hidden state is kept between batches with the graph that made it",
    ("second time", "hidden", "state", "detach"),
)
def hidden_state_kept(is_faulty: bool) -> Program:
    # the run stops with a RuntimeError, against val accuracy 0.833
    torch.manual_seed(7)
    train, val = waves(classes=3)

    class LSTMNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 24, batch_first=True)
            self.fc = nn.Linear(24, 3)
            self.hidden: tuple[Tensor, Tensor] | None = None

        def forward(self, x: Tensor) -> Tensor:
            start = self.hidden if is_faulty else None
            out, self.hidden = self.lstm(x, start)
            return self.fc(out[:, -1])

    task = Task(
        LSTMNet(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 5e-3, "batch_size": 30})
