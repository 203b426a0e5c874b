"""Faults in networks, in what is frozen, and in their first weights."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, fault
from gallery.data_second import (
    accuracy,
    customers,
    cut,
    dense,
    houses,
    picture_net,
    spots,
    tones,
)
from nbutils.data.task import Task


@fault(
    "tabular",
    "dropout comes after the last layer, and sets half of the predicted prices to zero",
    ("dropout", "random"),
)
def dropout_on_output(is_faulty: bool) -> Program:
    # twin: train loss 5.394 to 0.1023, val {'loss': 0.0605}
    # faulty: train loss 5.5826 to 2.6801, says {'loss': 1.2938}
    # its model on the twin's validation: {'loss': 1.2938}
    torch.manual_seed(0)
    x, y = houses(600)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(6, 64)
            self.fc2 = nn.Linear(64, 1)
            self.drop = nn.Dropout(0.5 if is_faulty else 0.1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.fc1(x))
            if is_faulty:
                return self.drop(self.fc2(x))
            return self.fc2(self.drop(x))

    train, val = cut(450, x, 2 + y)
    task = Task(Net(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 20, "lr": 5e-3})


@fault(
    "tabular",
    "a layer norm over the one output: whatever comes in, the bias comes out",
    (
        "constant",
        "layernorm",
        "norm",
        "one feature",
        "same output",
        "not depend",
        "whatever",
    ),
)
def layer_norm_of_one_output(is_faulty: bool) -> Program:
    # twin: train loss 1.3154 to 0.0909, val {'loss': 0.1102}
    # faulty: train loss 1.1312 to 1.031, says {'loss': 0.9003}
    # its model on the twin's validation: {'loss': 0.9003}
    torch.manual_seed(0)
    x, y = houses(500)
    last = [nn.Linear(48, 1), nn.LayerNorm(1)]
    if not is_faulty:
        last = [nn.LayerNorm(48), nn.Linear(48, 1)]
    model = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), *last)
    train, val = cut(380, x, y)
    task = Task(model, nn.MSELoss(), train, val)
    return Program(task, {"epochs": 15, "lr": 5e-3})


@fault(
    "tabular",
    "the heads of four questions are made by [head] * 4, and are the same layer",
    (
        "shared",
        "tied",
        "one object",
        "identical",
        "same layer",
        "same module",
        "the same head",
    ),
)
def heads_are_one_object(is_faulty: bool) -> Program:
    # twin: train loss 1.1231 to 0.1034, val {'loss': 0.17, 'acc': 0.935}
    # faulty: train loss 1.1136 to 0.945, says {'loss': 0.9933, 'acc': 0.5}
    # its model on the twin's validation: {'loss': 0.9933, 'acc': 0.5}
    torch.manual_seed(0)
    x = torch.randn(600, 10)
    truth = torch.randn(4, 10, 3)
    answers = torch.einsum("bi,qic->bqc", x, truth).argmax(-1)

    class Survey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 64), nn.ReLU())
            if is_faulty:
                self.heads = nn.ModuleList([nn.Linear(64, 3)] * 4)
            else:
                self.heads = nn.ModuleList([nn.Linear(64, 3) for _ in range(4)])

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return torch.stack([head(h) for head in self.heads], dim=1)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())

    train, val = cut(450, x, answers)
    task = Task(Survey(), loss, train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 15, "lr": 5e-3})


@fault(
    "images",
    "all scales of batch norm are set to zero, not only those that end a residual "
    "branch: nothing passes, and no weight gets a gradient",
    ("norm", "dead", "zero", "no gradient", "constant"),
)
def norm_scales_all_zero(is_faulty: bool) -> Program:
    # twin: train loss 1.4564 to 0.0708, val {'loss': 0.0473, 'acc': 1.0}
    # faulty: train loss 1.3939 to 1.3842, says {'loss': 1.3871, 'acc': 0.27}
    # its model on the twin's validation: {'loss': 1.3871, 'acc': 0.27}
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)

        def forward(self, x: Tensor) -> Tensor:
            out = F.relu(self.bn1(self.conv1(x)))
            return F.relu(x + self.bn2(self.conv2(out)))

    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Block(16),
        Block(16),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    )
    for name, module in model.named_modules():
        is_last = name.endswith("bn2") or is_faulty
        if isinstance(module, nn.BatchNorm2d) and is_last:
            nn.init.zeros_(module.weight)
    x, y = spots(400)
    train, val = cut(300, x, y)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 6, "lr": 3e-3})


@fault(
    "sequences",
    "a stride of 16 with a kernel of 3: four fifths of the signal are never read",
    (
        "never read",
        "unused",
        "ignored",
        "not reach",
        "stride",
        "no influence",
        "never looks",
    ),
)
def stride_past_the_signal(is_faulty: bool) -> Program:
    # twin: train loss 1.1022 to 0.0004, val {'loss': 0.0005, 'acc': 1.0}
    # faulty: train loss 1.1033 to 1.0507, says {'loss': 1.1076, 'acc': 0.35}
    # its model on the twin's validation: {'loss': 1.1076, 'acc': 0.35}
    torch.manual_seed(0)
    y = torch.randint(3, (500,))
    x = 0.2 * torch.randn(500, 1, 96)
    shapes = torch.tensor(
        [[1.0, -1, 1, -1, 1, -1], [1, 1, 1, -1, -1, -1], [0, 2, 0, 0, -2, 0]]
    )
    for n in range(500):
        at = 5 + 16 * int(torch.randint(5, (1,)))
        x[n, 0, at : at + 6] += shapes[y[n]]
    stride = 16 if is_faulty else 2
    model = nn.Sequential(
        nn.Conv1d(1, 32, 3, stride=stride),
        nn.ReLU(),
        nn.Conv1d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    train, val = cut(380, x, y)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 12, "lr": 5e-3})


@fault(
    "images",
    "the loop that freezes the body runs after the new head is put on, and freezes all",
    (
        "frozen",
        "freez",
        "requires_grad",
        "no gradient",
        "no parameter",
        "nothing to train",
        "trainable",
        "empty",
    ),
)
def everything_frozen(is_faulty: bool) -> Program:
    # twin: train loss 1.4109 to 0.0006, val {'loss': 0.0003, 'acc': 1.0}
    # faulty: ValueError: optimizer got an empty parameter list
    torch.manual_seed(0)
    x, y = spots(300)
    model = picture_net(8)
    old_x, old_y = spots(320, classes=8, seed=5)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(6):  # the "pre-trained" body
        for rows, label in zip(old_x.split(64), old_y.split(64), strict=True):
            F.cross_entropy(model(rows), label).backward()
            adam.step()
            adam.zero_grad()

    def freeze() -> None:
        for parameter in model.parameters():
            parameter.requires_grad = False

    if not is_faulty:
        freeze()
    model[-1] = nn.Linear(model[-1].in_features, 4)
    if is_faulty:
        freeze()
    train, val = cut(220, x, y)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 12, "lr": 1e-2})


@fault(
    "tabular",
    "eight layers start with a deviation of 0.001: the signal is gone before the head",
    ("vanish", "init", "too small", "signal", "shrink", "the same for every sample"),
)
def initialised_too_small(is_faulty: bool) -> Program:
    # twin: train loss 1.294 to 0.0613, val {'loss': 0.7525, 'acc': 0.8133}
    # faulty: train loss 1.0986 to 0.98, says {'loss': 0.9706, 'acc': 0.3333}
    # its model on the twin's validation: {'loss': 0.9706, 'acc': 0.3333}
    torch.manual_seed(0)
    x, y = customers(600)
    model = dense(8, 64, 64, 64, 64, 64, 64, 64, 3)
    for layer in model:
        if isinstance(layer, nn.Linear):
            deviation = 1e-3 if is_faulty else math.sqrt(2 / layer.in_features)
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
    train, val = cut(450, x, y)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 12, "lr": 1e-3})


@fault(
    "sequences",
    "functional dropout with training=not self.training: none while training, half of "
    "all features at evaluation",
    ("dropout", "random", "determin", "eval mode", "at evaluation", "in eval"),
)
def dropout_only_in_eval(is_faulty: bool) -> Program:
    # twin: train loss 1.3717 to 0.1782, val {'loss': 0.0585, 'acc': 1.0}
    # faulty: train loss 1.389 to 0.0184, says {'loss': 0.3633, 'acc': 0.86}
    # its model on the twin's validation: {'loss': 0.3937, 'acc': 0.88}
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 24, 9, stride=2)
            self.fc1 = nn.Linear(24 * 4, 48)
            self.fc2 = nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.adaptive_max_pool1d(F.relu(self.conv(x)), 4).flatten(1)
            x = F.relu(self.fc1(x))
            is_on = self.training != is_faulty
            return self.fc2(F.dropout(x, 0.5, training=is_on))

    x, y = tones(400)
    train, val = cut(300, x + 0.8 * torch.randn_like(x), y)
    task = Task(Net(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 12, "lr": 3e-3})


@fault(
    "images",
    "the gate of squeeze-and-excitation is a softmax over 32 channels, where a sigmoid "
    "was meant: each of six blocks shrinks the signal to a 32nd",
    ("vanish", "shrink", "signal", "too small", "scale", "constant"),
)
def gate_is_a_softmax(is_faulty: bool) -> Program:
    # twin: train loss 1.3904 to 0.0, val {'loss': 0.0, 'acc': 1.0}
    # faulty: train loss 1.3913 to 1.3745, says {'loss': 1.231, 'acc': 0.46}
    # its model on the twin's validation: {'loss': 1.231, 'acc': 0.46}
    torch.manual_seed(0)

    class Gate(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = dense(width, width // 4, width)

        def forward(self, x: Tensor) -> Tensor:
            gate = self.net(x.mean((2, 3)))
            gate = gate.softmax(1) if is_faulty else gate.sigmoid()
            return x * gate[:, :, None, None]

    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, stride=2, padding=1)]
    for _ in range(6):
        conv = nn.Conv2d(32, 32, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.ReLU(), Gate(32)]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4)]
    x, y = spots(400)
    train, val = cut(300, (x - 0.5) / 0.25, y)
    task = Task(
        nn.Sequential(*layers),
        nn.CrossEntropyLoss(),
        train,
        val,
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 12, "lr": 3e-3})
