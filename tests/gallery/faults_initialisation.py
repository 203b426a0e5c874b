"""Faults of initial weights and of activations that pass no gradient on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.case import Program, fault
from gallery.data_classic import (
    absolute_error,
    accuracy,
    digits,
    flats,
    reviews,
    rings,
    tumours,
    waves,
)
from nbutils.data.task import Task


@fault(
    "images",
    "all weights and biases are initialised with zeros",
    ("zero", "initial", "symmetr", "gradient"),
)
def weights_all_zero(is_faulty: bool) -> Program:
    # val accuracy 0.0856 against 0.922
    torch.manual_seed(0)
    train, val = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 10))

    def init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            if is_faulty:
                nn.init.zeros_(module.weight)
            else:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    model.apply(init_weights)
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 5})


@fault(
    "tabular",
    "all weights start at the same value, so that the units of a layer stay equal",
    ("symmetr", "constant", "identical", "initial"),
)
def weights_all_equal(is_faulty: bool) -> Program:
    # val accuracy 0.353 against 0.997
    torch.manual_seed(1)
    train, val = rings()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(2, 32)
            self.out = nn.Linear(32, 3)
            if is_faulty:
                for layer in (self.hidden, self.out):
                    nn.init.constant_(layer.weight, 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.hidden(x)))

    # One start of the biases for both: only the weights differ.
    net = Net()
    nn.init.zeros_(net.hidden.bias)
    task = Task(net, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy})
    return Program(task, {"epochs": 10, "lr": 0.01})


@fault(
    "images",
    "weights drawn with a standard deviation of 10: the first loss is above 10 000",
    ("initial", "logit", "first loss", "scale"),
)
def weights_huge(is_faulty: bool) -> Program:
    # val accuracy 0.0982 against 0.907
    torch.manual_seed(2)
    train, val = digits()
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(432, 32), nn.ReLU()
    )
    model.append(nn.Linear(32, 10))
    for module in model:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=10.0 if is_faulty else 0.08)
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 5})


@fault(
    "images",
    "pixels from 0 to 255 saturate the sigmoids of the first layer",
    ("saturat", "sigmoid", "scale", "normali"),
)
def sigmoids_saturated_by_pixels(is_faulty: bool) -> Program:
    # val accuracy 0.169 against 0.94
    torch.manual_seed(3)
    (x, y), (x_val, y_val) = digits()
    if is_faulty:
        x, x_val = 255 * x, 255 * x_val
    else:
        x, x_val = (x - 0.3) / 0.4, (x_val - 0.3) / 0.4
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 10)
    )
    task = Task(
        model,
        nn.CrossEntropyLoss(),
        (x, y),
        (x_val, y_val),
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 10, "optimizer": "sgd", "lr": 0.1})


@fault(
    "tabular",
    "twelve sigmoid layers: the gradient vanishes before it reaches the first",
    ("vanish", "sigmoid", "gradient"),
)
def gradients_vanish_in_sigmoids(is_faulty: bool) -> Program:
    # val accuracy 0.663 against 0.947
    torch.manual_seed(4)
    train, val = tumours()
    activation = nn.Sigmoid if is_faulty else nn.ReLU
    layers = [nn.Linear(30, 32), activation()]
    for _ in range(11):
        layers += [nn.Linear(32, 32), activation()]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    task = Task(
        model, nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8})


@fault(
    "tabular",
    "the hidden biases start at -20: every ReLU is dead",
    ("dead", "relu", "inactive", "bias"),
)
def relus_dead_from_the_start(is_faulty: bool) -> Program:
    # val mae 1.93 against 0.158
    torch.manual_seed(5)
    train, val = flats()

    class Regressor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(6, 64)
            self.fc2 = nn.Linear(64, 1)
            nn.init.constant_(self.fc1.bias, -20.0 if is_faulty else 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(functional.relu(self.fc1(x)))

    task = Task(Regressor(), nn.MSELoss(), train, val, metrics={"mae": absolute_error})
    return Program(task, {"epochs": 8, "lr": 5e-3})


@fault(
    "sequences",
    "a ReLU RNN whose recurrent weights blow its state up step by step",
    ("explod", "grow", "overflow", "not finite"),
)
def recurrence_explodes(is_faulty: bool) -> Program:
    # updates not finite, the run is given up; healthy: val accuracy 0.92
    torch.manual_seed(6)
    train, val = waves(count=600, steps=60, classes=3)

    class RNNClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(3, 32, nonlinearity="relu", batch_first=True)
            self.fc = nn.Linear(32, 3)
            nn.init.orthogonal_(self.rnn.weight_hh_l0)
            with torch.no_grad():
                self.rnn.weight_hh_l0.mul_(3.0 if is_faulty else 0.95)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][:, -1])

    task = Task(
        RNNClassifier(),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"accuracy": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "text",
    "the embedding is drawn with a standard deviation of 100 before a tanh RNN",
    ("saturat", "embedding", "initial", "scale"),
)
def embedding_saturates_tanh(is_faulty: bool) -> Program:
    # val accuracy 0.703 against 0.885
    torch.manual_seed(7)
    train, val = reviews()

    class Sentiment(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 24)
            nn.init.normal_(self.embedding.weight, std=100.0 if is_faulty else 0.5)
            self.rnn = nn.RNN(24, 48, batch_first=True)
            self.out = nn.Linear(48, 2)

        def forward(self, ids: Tensor) -> Any:
            return self.out(self.rnn(self.embedding(ids))[0].mean(1))

    task = Task(
        Sentiment(), nn.CrossEntropyLoss(), train, val, metrics={"accuracy": accuracy}
    )
    return Program(task, {"epochs": 8, "lr": 3e-3})
