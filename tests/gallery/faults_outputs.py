"""Faults of the last layer: an activation that does not suit the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import (
    absolute_error,
    accuracy,
    digits,
    flats,
    graph_accuracy,
    molecules,
    temperatures,
    tumours,
)
from nbutils.data.task import Task


class SmallNet(nn.Module):
    """Two convolutions and a head, for the scans of digits."""

    def __init__(self, last: nn.Module):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32 * 4, 10)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return self.last(self.fc(x.flatten(1)))


@fault("images", "softmax before cross-entropy", ("softmax", "probabilit", "logit"))
def softmax_before_cross_entropy(is_faulty: bool) -> Program:
    # val accuracy 0.678 against 0.861
    torch.manual_seed(0)
    train, val = digits()
    model = SmallNet(nn.Softmax(dim=1) if is_faulty else nn.Identity())
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 4})


def tag_f1(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
    """F1 of all tags, those with a positive logit being given."""
    given, true = outputs > 0, batch[1] > 0.5
    hits = (given & true).sum().item()
    return 2 * hits / max(1, given.sum().item() + true.sum().item())


@fault(
    "tabular",
    "sigmoid before BCEWithLogitsLoss, so that no logit is ever negative",
    ("sigmoid", "probabilit", "logit"),
)
def sigmoid_before_bce_with_logits(is_faulty: bool) -> Program:
    # val f1 0.272 against 0.85
    torch.manual_seed(1)
    x = torch.randn(1200, 20)
    tags = (x @ torch.randn(20, 8) > 4.0).float()  # about one in six
    layers = [nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 8)]
    if is_faulty:
        layers.append(nn.Sigmoid())
    task = Task(
        nn.Sequential(*layers),
        nn.BCEWithLogitsLoss(),
        (x[:900], tags[:900]),
        (x[900:], tags[900:]),
        metrics={"f1": tag_f1},
    )
    return Program(task, {"epochs": 10, "lr": 3e-3})


@fault(
    "sequences",
    "ReLU after the last layer, before cross-entropy",
    ("relu", "negative", "activation"),
)
def relu_before_cross_entropy(is_faulty: bool) -> Program:
    # val accuracy 0.537 against 0.912
    torch.manual_seed(5)
    train, val = digits()

    class RowReader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(8, 48, batch_first=True)
            self.dense = nn.Linear(48, 24)
            self.out = nn.Linear(24, 10)

        def forward(self, image: Tensor) -> Tensor:
            _, hidden = self.rnn(image.squeeze(1))
            x = torch.relu(self.dense(hidden[-1]))
            return torch.relu(self.out(x)) if is_faulty else self.out(x)

    model = RowReader()
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 6, "lr": 3e-3})


@fault(
    "sequences",
    "ReLU on the output of a regression whose targets are negative half of the time",
    ("relu", "negative", "range", "reach"),
)
def relu_on_regression_output(is_faulty: bool) -> Program:
    # val mae 0.456 against 0.0478
    torch.manual_seed(2)
    train, val = temperatures()

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(1, 32, batch_first=True)
            self.head = nn.Sequential(nn.Linear(32, 3))
            if is_faulty:
                self.head.append(nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.lstm(x)
            return self.head(states[:, -1])

    task = Task(Forecaster(), nn.MSELoss(), train, val, metrics={"mae": absolute_error})
    return Program(task, {"epochs": 5, "lr": 5e-3})


@fault(
    "images",
    "NLLLoss of raw outputs: the log-softmax is missing",
    ("softmax", "log-prob", "log prob"),
)
def nll_without_log_softmax(is_faulty: bool) -> Program:
    # val accuracy 0.113 against 0.897
    torch.manual_seed(3)
    train, val = digits()
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
    )
    if not is_faulty:
        model.append(nn.LogSoftmax(dim=1))
    task = Task(model, nn.NLLLoss(), train, val, metrics={"accuracy": accuracy})
    return Program(task, {"epochs": 6})


@fault(
    "graphs",
    "softmax where NLLLoss wants log-softmax",
    ("softmax", "log-prob", "log prob"),
)
def softmax_before_nll_of_graphs(is_faulty: bool) -> Program:
    # val accuracy 0.55 against 0.82
    from torch_geometric.nn import GraphConv, global_add_pool

    torch.manual_seed(4)
    train, val = molecules(kinds=12)

    class GraphNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = GraphConv(12, 32)
            self.conv2 = GraphConv(32, 32)
            self.lin = nn.Linear(32, 12)

        def forward(self, data):
            x = self.conv1(data.x, data.edge_index).relu()
            x = self.conv2(x, data.edge_index).relu()
            x = self.lin(global_add_pool(x, data.batch))
            if is_faulty:
                return functional.softmax(x, dim=1)
            return functional.log_softmax(x, dim=1)

    def loss(outputs, batch):
        return functional.nll_loss(outputs, batch.y)

    task = Task(GraphNet(), loss, train, val, metrics={"accuracy": graph_accuracy})
    return Program(task, {"epochs": 15, "lr": 5e-3})


@fault(
    "tabular",
    "sigmoid output with MSE against ratings from 1 to 5",
    ("sigmoid", "range", "reach", "outside"),
)
def sigmoid_output_for_ratings(is_faulty: bool) -> Program:
    # val mae 2.06 against 0.305
    torch.manual_seed(6)
    (x, price), (x_val, price_val) = flats()
    train = (x, price.round().clamp(1, 5))
    val = (x_val, price_val.round().clamp(1, 5))
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    if is_faulty:
        model.append(nn.Sigmoid())
    task = Task(model, nn.MSELoss(), train, val, metrics={"mae": absolute_error})
    return Program(task, {"epochs": 8, "lr": 5e-3, "optimizer": "adam"})


@fault(
    "dicts",
    "tanh output for pixel values from 0 to 255",
    ("tanh", "range", "reach", "outside"),
)
def tanh_output_for_wide_targets(is_faulty: bool) -> Program:
    # val relative error 1 against 0.274
    torch.manual_seed(7)
    (x, _), (x_val, _) = digits()
    scale = 255.0 if is_faulty else 1.0

    def samples(images: Tensor) -> list[dict[str, Tensor]]:
        noisy = (images + 0.2 * torch.randn_like(images)).clamp(0, 1)
        pairs = zip(noisy, images * scale, strict=True)
        return [{"noisy": given, "clean": wanted} for given, wanted in pairs]

    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU())
            self.middle = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())
            self.decode = nn.Conv2d(24, 1, 3, padding=1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return torch.tanh(self.decode(self.middle(self.encode(batch["noisy"]))))

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return functional.mse_loss(outputs, batch["clean"])

    def relative_error(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return ((outputs - batch["clean"]).abs().mean() / batch["clean"].mean()).item()

    data = samples(x), samples(x_val)
    task = Task(Denoiser(), loss, *data, metrics={"relative_error": relative_error})
    return Program(task, {"epochs": 4})


@fault(
    "tabular",
    "softmax over a single output: the probability is always 1",
    ("softmax", "constant", "always", "single"),
)
def softmax_of_one_output(is_faulty: bool) -> Program:
    # val accuracy 0.627 against 0.947
    torch.manual_seed(8)
    train, val = tumours()
    model = nn.Sequential(
        nn.Linear(30, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
        nn.Softmax(dim=1) if is_faulty else nn.Sigmoid(),
        nn.Flatten(0),
    )

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.binary_cross_entropy(outputs, batch[1].float())

    def hit_rate(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> float:
        return ((outputs > 0.5) == batch[1].bool()).float().mean().item()

    task = Task(model, loss, train, val, metrics={"accuracy": hit_rate})
    return Program(task, {"epochs": 6, "batch_size": 16})
