"""Healthy: networks in which forward or backward is no plain chain of layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_unusual import accuracy, clusters, curve, gratings, mlp, split
from nbutils.data.task import Task


class ComplexLinear(nn.Module):
    """A linear layer over complex numbers."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        scale = (2 * before) ** -0.5
        noise = torch.randn(after, before, dtype=torch.cfloat)
        self.weight = nn.Parameter(noise * scale)
        self.bias = nn.Parameter(torch.zeros(after, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class ModReLU(nn.Module):
    """Acts on the modulus, keeps the phase."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.abs() + 1e-6
        return F.relu(size + self.bias) * (x / size)


@healthy("arrays", "complex inputs, weights and targets; the loss is real")
def complex_network() -> Program:
    torch.manual_seed(0)
    x = torch.randn(500, 6, dtype=torch.cfloat)
    mix = torch.randn(6, 2, dtype=torch.cfloat)
    y = (x @ mix) * (x[:, :2].abs() + 0.5) / 3
    train, val = split(400, x, y)
    model = nn.Sequential(ComplexLinear(6, 32), ModReLU(32), ComplexLinear(32, 2))

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (outputs - batch[1]).abs().square().mean()

    task = Task(model, loss, train, val)
    return Program(task, {"epochs": 15, "lr": 5e-3, "precision": "fp32"})


class Fourier(nn.Module):
    """A spectral layer between real ones: complex weights inside alone."""

    def __init__(self, width: int = 16, modes: int = 6) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, width), nn.Linear(width, 1)
        noise = torch.randn(modes, width, width, dtype=torch.cfloat)
        self.weight = nn.Parameter(noise / width)

    def forward(self, series: Tensor) -> Tensor:
        hidden = self.enter(series[..., None])
        waves = torch.fft.rfft(hidden.float(), dim=1)
        kept = self.weight.shape[0]
        mixed = torch.einsum("bkw,kwv->bkv", waves[:, :kept], self.weight)
        low = torch.fft.irfft(mixed, n=series.shape[1], dim=1)
        return self.leave(F.gelu(hidden + low)).squeeze(-1)


@healthy("sequences", "a Fourier neural operator: complex weights in a real network")
def fourier_operator() -> Program:
    torch.manual_seed(0)
    series = torch.randn(400, 32)
    waves = torch.fft.rfft(series)
    waves[:, 5:] = 0
    smooth = torch.fft.irfft(waves, n=32)
    train, val = split(320, series, smooth)
    task = Task(Fourier(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 15, "lr": 5e-3, "precision": "fp32"})


class Equilibrium(nn.Module):
    """A fixed point found without gradients, then one step with them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.inner = nn.Linear(width, width)
        nn.init.orthogonal_(self.inner.weight, gain=0.5)
        self.leave = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        given = self.enter(x)
        with torch.no_grad():
            state = torch.zeros_like(given)
            for _ in range(15):
                state = torch.tanh(self.inner(state) + given)
        return self.leave(torch.tanh(self.inner(state.detach()) + given))


@healthy("tabular", "a deep equilibrium model: most passes are without gradients")
def deep_equilibrium() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=2.0))
    task = Task(Equilibrium(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 8, "lr": 3e-3})


class Spike(torch.autograd.Function):
    """A step whose gradient is that of a smooth bump."""

    @staticmethod
    def forward(ctx, potential: Tensor) -> Tensor:
        ctx.save_for_backward(potential)
        return (potential > 0).to(potential.dtype)

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        (potential,) = ctx.saved_tensors
        return slope / (1 + 5 * potential.abs()).square()


class Spiking(nn.Module):
    """Leaky neurons over eight time steps; outputs are mean potentials."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(12, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        current = self.enter(x)
        potential, total = torch.zeros_like(current), 0
        for _ in range(8):
            potential = 0.8 * potential + current
            spikes = Spike.apply(potential - 1)
            potential = potential * (1 - spikes)
            total = total + self.leave(spikes)
        return total / 8


@healthy("tabular", "a spiking network: true slopes are zero, surrogates are used")
def spiking() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=1.5))
    task = Task(Spiking(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 10, "lr": 3e-3})


class Binary(nn.Linear):
    """Weights of one bit in the forward pass, real ones behind them."""

    def forward(self, x: Tensor) -> Tensor:
        bits = self.weight.sign() * self.weight.abs().mean()
        weight = self.weight + (bits - self.weight).detach()
        return F.linear(x, weight, self.bias)


@healthy("tabular", "weights of one bit with a straight-through estimator")
def binary_weights() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 16, 4, spread=1.5))
    model = nn.Sequential(Binary(16, 64), nn.BatchNorm1d(64), nn.Hardtanh())
    model.extend([Binary(64, 64), nn.BatchNorm1d(64), nn.Hardtanh(), nn.Linear(64, 4)])
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "lr": 3e-3})


class FakeQuantised(nn.Module):
    """Activations of eight bits by an observed range, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("top", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.top.lerp_(x.detach().abs().amax().float(), 0.05)
        step = self.top / 127
        rounded = (x / step).round().clamp(-128, 127) * step
        return x + (rounded - x).detach()


@healthy("images", "quantisation-aware training: ranges are buffers that follow")
def quantisation_aware() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    layers: list[nn.Module] = [FakeQuantised(), nn.Conv2d(1, 16, 5, stride=2)]
    layers += [nn.ReLU(), FakeQuantised(), nn.Conv2d(16, 32, 3), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), FakeQuantised()]
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 12, "lr": 3e-3})


class Reverse(torch.autograd.Function):
    """Gradient reversal."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return -0.3 * slope


class DomainAdversarial(nn.Module):
    """Features that tell the class and do not tell the domain."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(13, 48, 24)
        self.kind, self.domain = nn.Linear(24, 3), mlp(24, 16, 2)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.body(batch["x"])
        domain = self.domain(Reverse.apply(features))
        return {"kind": self.kind(features), "domain": domain}


@healthy("dicts", "gradient reversal: one term of the loss is meant to stay at chance")
def domain_adversarial() -> Program:
    torch.manual_seed(0)
    x, y = clusters(600, 12, 3, spread=1.5)
    domain = torch.randint(2, (600,))
    mark = domain[:, None] + 0.3 * torch.randn(600, 1)
    columns = {"x": torch.cat([x, mark], dim=1), "y": y, "domain": domain}
    train = {name: column[:500] for name, column in columns.items()}
    val = {name: column[500:] for name, column in columns.items()}

    def loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "kind": F.cross_entropy(outputs["kind"], batch["y"]),
            "domain": F.cross_entropy(outputs["domain"], batch["domain"]),
        }

    task = Task(DomainAdversarial(), loss, train, val)
    return Program(task, {"epochs": 10})


@healthy("tabular", "a polynomial of bare parameters in a list and a dict, no layer")
def bare_parameters() -> Program:
    class Polynomial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = nn.ParameterList(
                [nn.Parameter(0.1 * torch.randn(6, 1)) for _ in range(3)]
            )
            self.named = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(1))})

        def forward(self, x: Tensor) -> Tensor:
            powers = [x**n @ w for n, w in enumerate(self.factors, start=1)]
            return sum(powers) + self.named["shift"]

    torch.manual_seed(0)
    train, val = split(400, *curve(500))
    task = Task(Polynomial(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 15, "lr": 1e-2})
