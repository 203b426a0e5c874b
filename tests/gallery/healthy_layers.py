"""Healthy: layers that look dead, frozen, shut or tiny, and are not."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_second import (
    accuracy,
    customers,
    cut,
    houses,
    picture_net,
    spots,
    tones,
)
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


def customer_task(model: nn.Module, **options: Any) -> Task:
    x, y = customers(600)
    train, val = cut(450, x, y)
    loss = nn.CrossEntropyLoss()
    return Task(model, loss, train, val, metrics={"acc": accuracy}, **options)


def house_task(model: nn.Module, **options: Any) -> Task:
    x, y = houses(600)
    train, val = cut(450, x, y)
    return Task(model, nn.MSELoss(), train, val, **options)


@healthy(
    "tabular",
    "random features that never learn, and a linear layer on them: a kernel machine, "
    "where most weights are frozen on purpose and never pre-trained",
)
def random_features() -> Program:
    torch.manual_seed(0)
    first = nn.Linear(6, 400)
    nn.init.normal_(first.weight, std=0.7)
    nn.init.uniform_(first.bias, 0, 2 * math.pi)
    first.requires_grad_(False)

    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = first, nn.Linear(400, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(math.sqrt(2 / 400) * torch.cos(self.first(x)))

    return Program(house_task(Fourier()), {"epochs": 25, "lr": 2e-2})


@healthy(
    "sequences",
    "an echo state network: a fixed random recurrence in buffers, driven without "
    "gradients; only the readout learns, as this method means it",
)
def echo_state() -> Program:
    torch.manual_seed(0)

    class Reservoir(nn.Module):
        def __init__(self, width: int = 80) -> None:
            super().__init__()
            inner = torch.randn(width, width) / math.sqrt(width)
            self.register_buffer("inner", 0.9 * inner)
            self.register_buffer("inlet", torch.randn(1, width))
            self.out = nn.Linear(2 * width, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = torch.zeros(len(x), len(self.inner))
                seen = []
                for value in x.transpose(1, 2).unbind(1):
                    h = torch.tanh(h @ self.inner + value @ self.inlet)
                    seen.append(h)
                states = torch.stack(seen, 1)
                summary = torch.cat(
                    [states.std(1), states[:, 1:].mul(states[:, :-1]).mean(1)], 1
                )
            return self.out(summary)

    x, y = tones(400)
    train, val = cut(300, x, y)
    task = Task(
        Reservoir(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy}
    )
    return Program(task, {"epochs": 15, "lr": 1e-2})


@healthy(
    "tabular",
    "a highway network whose gates start shut (bias of -3), so that inner layers get "
    "small gradients at first, as in the paper",
)
def highway() -> Program:
    torch.manual_seed(0)

    class Highway(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.work, self.gate = nn.Linear(width, width), nn.Linear(width, width)
            nn.init.constant_(self.gate.bias, -3.0)

        def forward(self, x: Tensor) -> Tensor:
            share = self.gate(x).sigmoid()
            return share * F.relu(self.work(x)) + (1 - share) * x

    body = [nn.Linear(8, 48), *[Highway(48) for _ in range(6)], nn.Linear(48, 3)]
    return Program(customer_task(nn.Sequential(*body)), {"epochs": 8, "lr": 3e-3})


@healthy(
    "images",
    "residual branches scaled by a learnt 1e-4 each: tiny on purpose, and with tiny "
    "gradients behind them, as in deep vision transformers",
)
def layer_scale() -> Program:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((width, 1, 1), 1e-4))
            self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.mix = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU())
            self.back = nn.Conv2d(2 * width, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale * self.back(self.mix(self.conv(x)))

    x, y = spots(400)
    train, val = cut(300, x - 0.5, y)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 4, stride=2),
        nn.GELU(),
        Block(24),
        Block(24),
        nn.Conv2d(24, 32, 3),
    )
    model.extend([nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)])
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 15, "lr": 5e-3})


@healthy(
    "tabular",
    "self-normalising: SELU, LeCun initialisation and alpha dropout, without any norm",
)
def self_normalising() -> Program:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in [(8, 48), (48, 48), (48, 48), (48, 48)]:
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, std=a**-0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SELU(), nn.AlphaDropout(0.05)]
    model = nn.Sequential(*layers, nn.Linear(48, 3))
    return Program(customer_task(model), {"epochs": 12, "lr": 2e-3})


@healthy(
    "tabular",
    "a monotone network: weights pass through softplus, and biases start spread out",
)
def monotone() -> Program:
    torch.manual_seed(0)

    class Positive(nn.Module):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.raw = nn.Parameter(torch.randn(b, a) - 2.0 - math.log(a))
            self.bias = nn.Parameter(torch.randn(b))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, F.softplus(self.raw), self.bias)

    x = torch.rand(600, 4) * 4 - 2
    y = torch.tanh(x[:, :1]) + 0.4 * x[:, 1:2].relu() + torch.sigmoid(3 * x[:, 2:3])
    y = (y - y.mean()) / y.std() + 0.05 * torch.randn(600, 1)
    train, val = cut(450, x, y)
    model = nn.Sequential(
        Positive(4, 32), nn.Tanh(), Positive(32, 16), nn.Tanh(), Positive(16, 1)
    )
    return Program(Task(model, nn.MSELoss(), train, val), {"epochs": 30, "lr": 1e-2})


@healthy(
    "images",
    "a spatial transformer: its locator's last layer starts at zero with the identity "
    "as bias, which is how it must start",
)
def spatial_transformer() -> Program:
    torch.manual_seed(0)

    class STN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.locate = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.Tanh())
            self.theta = nn.Linear(16, 6)
            nn.init.zeros_(self.theta.weight)
            self.theta.bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
            self.net = picture_net()

        def forward(self, x: Tensor) -> Tensor:
            theta = self.theta(self.locate(x)).view(-1, 2, 3)
            grid = F.affine_grid(theta, x.shape, align_corners=False)
            return self.net(F.grid_sample(x, grid, align_corners=False))

    x, y = spots(360)
    train, val = cut(280, x, y)
    task = Task(STN(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 8, "lr": 2e-3})


@healthy(
    "sequences",
    "a state-space layer: complex poles as logarithms, a convolution by FFT, and a "
    "real part at the end",
)
def state_space() -> Program:
    torch.manual_seed(0)

    class S4D(nn.Module):
        def __init__(self, width: int = 16, poles: int = 8) -> None:
            super().__init__()
            self.inlet, self.out = nn.Linear(1, width), nn.Linear(width, 4)
            self.log_decay = nn.Parameter(torch.log(torch.full((width, poles), 0.05)))
            self.turn = nn.Parameter(torch.linspace(0.05, 1.5, poles).repeat(width, 1))
            self.c = nn.Parameter(torch.randn(width, poles, 2) / poles)

        def forward(self, x: Tensor) -> Tensor:
            u = self.inlet(x.transpose(1, 2)).transpose(1, 2)
            steps = torch.arange(u.shape[-1])
            rate = torch.complex(-self.log_decay.exp(), self.turn)
            kernel = (
                (
                    torch.view_as_complex(self.c)[..., None]
                    * torch.exp(rate[..., None] * steps)
                )
                .sum(1)
                .real
            )
            n = 2 * u.shape[-1]
            y = torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(kernel, n), n)[
                ..., : u.shape[-1]
            ]
            return self.out(F.gelu(y).pow(2).mean(-1))

    x, y = tones(400)
    train, val = cut(300, x, y)
    task = Task(S4D(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 20, "lr": 1e-2})


@healthy(
    "tabular",
    "radial basis functions around fixed centres, which are training rows: for far "
    "rows nearly all units are zero",
)
def radial_basis() -> Program:
    torch.manual_seed(0)
    angle = 2 * math.pi * torch.rand(500)
    ring = torch.randint(3, (500,))
    x = torch.stack([angle.cos(), angle.sin()], 1) * (1.0 + ring)[:, None]
    x = x + 0.12 * torch.randn(500, 2)

    class RBF(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centres", x[:60].clone())
            self.log_width = nn.Parameter(torch.full((60,), -0.7))
            self.out = nn.Linear(60, 3)

        def forward(self, rows: Tensor) -> Tensor:
            far = torch.cdist(rows, self.centres) / self.log_width.exp()
            return self.out(torch.exp(-(far**2) / 2))

    train, val = cut(380, x, ring)
    task = Task(RBF(), nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 20, "lr": 3e-2})


@healthy(
    "arrays",
    "sparse coding by four unrolled steps: a soft threshold sets most of the code to "
    "exactly zero, and its gradient with it",
)
def unrolled_sparse_coding() -> Program:
    torch.manual_seed(0)
    atoms = F.normalize(torch.randn(40, 20), dim=1)
    code = torch.randn(600, 40) * (torch.rand(600, 40) < 0.08)
    x = code @ atoms + 0.02 * torch.randn(600, 20)

    class Lista(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(20, 40, bias=False)
            self.inhibit = nn.Linear(40, 40, bias=False)
            self.theta = nn.Parameter(torch.full((40,), 0.05))
            self.decode = nn.Linear(40, 20, bias=False)
            nn.init.zeros_(self.inhibit.weight)

        def forward(self, x: Tensor) -> Tensor:
            drive = self.encode(x)
            z = F.softshrink(drive, 0.05)
            for _ in range(4):
                z = drive + self.inhibit(z)
                z = z.sign() * F.relu(z.abs() - self.theta)
            return self.decode(z)

    train, val = list(x[:450]), list(x[450:])
    task = Task(
        Lista(), lambda o, b: F.mse_loss(o, b), train, val, forward=lambda m, b: m(b)
    )
    return Program(task, {"epochs": 25, "lr": 5e-3})


@healthy(
    "tabular",
    "splines in place of weights (Kolmogorov-Arnold): a grid of bumps per edge, of "
    "which those beyond the data get no gradient",
)
def spline_edges() -> Program:
    torch.manual_seed(0)

    class Edges(nn.Module):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.register_buffer("grid", torch.linspace(-4, 4, 12))
            self.weight = nn.Parameter(0.1 * torch.randn(b, a * 12))
            self.base = nn.Linear(a, b)

        def forward(self, x: Tensor) -> Tensor:
            bumps = F.relu(1 - (x[..., None] - self.grid).abs() / 0.75)
            return self.base(F.silu(x)) + F.linear(bumps.flatten(1), self.weight)

    model = nn.Sequential(Edges(6, 8), Edges(8, 1))
    return Program(house_task(model), {"epochs": 25, "lr": 1e-2})
