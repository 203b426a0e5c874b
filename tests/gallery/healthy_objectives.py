"""Healthy: losses with unusual values, signs, randomness and couplings."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_second import cut, dense, houses
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


@healthy(
    "arrays",
    "a Wasserstein critic with gradient penalty: the loss is a difference of means, "
    "goes below zero, and has no floor that anybody knows; double backward",
)
def wasserstein_critic() -> Program:
    torch.manual_seed(0)
    real = torch.randn(600, 2) * 0.3 + torch.tensor([1.0, 0.5])
    fake = torch.randn(600, 2)
    critic = dense(2, 48, 48, 1)

    def forward(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.enable_grad():
            mix = (batch["real"] + batch["fake"]) / 2
            mix = mix.detach().requires_grad_()
            slope = torch.autograd.grad(model(mix).sum(), mix, create_graph=True)[0]
        return {
            "real": model(batch["real"]),
            "fake": model(batch["fake"]),
            "slope": slope,
        }

    def loss(outputs: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        penalty = (outputs["slope"].norm(dim=1) - 1).pow(2).mean()
        return {"gap": (outputs["fake"] - outputs["real"]).mean(), "penalty": penalty}

    task = Task(
        critic,
        loss,
        {"real": real[:450], "fake": fake[:450]},
        {"real": real[450:], "fake": fake[450:]},
        forward=forward,
        loss_weights={"penalty": 10.0},
    )
    return Program(task, {"epochs": 15, "lr": 2e-3, "betas": (0.5, 0.9)})


@healthy(
    "arrays",
    "noise-contrastive estimation: noise is drawn in the loss, each time anew, and the "
    "normaliser of the density is a parameter",
)
def noise_contrastive_density() -> Program:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(300, 1) * 0.4 - 1.5, torch.randn(300, 1) * 0.6 + 1])
    x = x[torch.randperm(600)]

    class Density(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = dense(1, 32, 32, 1)
            self.log_z = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return -self.energy(x).squeeze(1) - self.log_z

    noise = torch.distributions.Normal(0.0, 2.0)

    def forward(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
        drawn = noise.sample((4 * len(batch), 1))
        own = model(batch) - noise.log_prob(batch).squeeze(1)
        return own, model(drawn) - noise.log_prob(drawn).squeeze(1)

    def loss(outputs: Pair, batch: Tensor) -> Tensor:
        own, drawn = outputs
        return (
            F.softplus(-own + math.log(4)).mean()
            + 4 * F.softplus(drawn - math.log(4)).mean()
        )

    train, val = list(x[:450]), list(x[450:])
    return Program(
        Task(Density(), loss, train, val, forward=forward), {"epochs": 15, "lr": 3e-3}
    )


@healthy(
    "tabular",
    "deep kernel learning: each batch is one Gaussian process, whose likelihood "
    "couples all its rows through a Cholesky factor",
)
def gaussian_process_of_a_batch() -> Program:
    torch.manual_seed(0)
    x, y = houses(640)

    class Kernel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = dense(6, 32, 3)
            self.log_noise = nn.Parameter(torch.tensor(-1.0))

        def forward(self, x: Tensor) -> Tensor:
            z = self.features(x)
            k = torch.exp(-torch.cdist(z, z).pow(2) / 2)
            return k + self.log_noise.exp() * torch.eye(len(x))

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        factor = torch.linalg.cholesky(outputs + 1e-4 * torch.eye(len(outputs)))
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(len(outputs)), scale_tril=factor
        )
        return -normal.log_prob(batch[1].squeeze(1)) / len(outputs)

    train, val = cut(512, x, y)
    task = Task(Kernel(), loss, train, val, declares=("samples interact",))
    return Program(task, {"epochs": 15, "lr": 5e-3, "batch_size": 64})


@healthy(
    "sequences",
    "a linear-chain CRF: the loss is a log-partition minus a path's score, summed over "
    "words; transitions start at zero",
)
def conditional_random_field() -> Program:
    torch.manual_seed(0)
    move = (4 * torch.eye(4).roll(1, 0) + torch.rand(4, 4)).softmax(1)
    tags = torch.zeros(400, 12, dtype=torch.long)
    tags[:, 0] = torch.randint(4, (400,))
    for t in range(1, 12):
        tags[:, t] = torch.multinomial(move[tags[:, t - 1]], 1).squeeze(1)
    x = F.one_hot(tags, 4).float() + 1.0 * torch.randn(400, 12, 4)

    class CRF(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emit = dense(4, 24, 4)
            self.move = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            emit = self.emit(x)
            total = emit[:, 0]
            for t in range(1, emit.shape[1]):
                total = torch.logsumexp(total[:, :, None] + self.move, 1) + emit[:, t]
            return {
                "emit": emit,
                "log_z": total.logsumexp(1),
                "move": self.move.expand(len(x), 4, 4),
            }

    def loss(outputs: dict[str, Tensor], batch: Pair) -> Tensor:
        y = batch[1]
        own = outputs["emit"].gather(2, y[..., None]).sum((1, 2))
        steps = outputs["move"][0][y[:, :-1], y[:, 1:]].sum(1)
        return (outputs["log_z"] - own - steps).mean()

    train, val = cut(300, x, tags)
    return Program(Task(CRF(), loss, train, val), {"epochs": 15, "lr": 1e-2})


@healthy(
    "tabular",
    "CRPS by samples: noise goes into the network, the loss draws anew at each call, "
    "and is an energy score of 16 draws",
)
def energy_score() -> Program:
    torch.manual_seed(0)
    x, y = houses(600)
    y = y + 0.4 * (x[:, 4:5] > 0) * torch.randn(600, 1)

    class Engression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(10, 48, 48, 1)

        def forward(self, x: Tensor) -> Tensor:
            rows = x[:, None].expand(-1, 16, -1)
            noise = torch.randn(len(x), 16, 4)
            return self.net(torch.cat([rows, noise], -1)).squeeze(-1)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        near = (outputs - batch[1]).abs().mean(1)
        spread = (outputs[:, :, None] - outputs[:, None]).abs().sum((1, 2)) / (16 * 15)
        return (near - spread / 2).mean()

    train, val = cut(450, x, y)
    return Program(Task(Engression(), loss, train, val), {"epochs": 20, "lr": 3e-3})


@healthy(
    "tabular",
    "discrete-time survival: hazards per interval, with intervals after the event or "
    "the end of observation masked; most targets are zero",
)
def discrete_hazards() -> Program:
    torch.manual_seed(0)
    x = torch.randn(600, 5)
    hazard = (x[:, 0] + 0.5 * x[:, 1] - 2.5).sigmoid()
    dies = torch.distributions.Geometric(hazard).sample().clamp(max=9).long()
    leaves = torch.randint(2, 10, (600,))
    at = torch.arange(10)
    seen = (at <= torch.minimum(dies, leaves)[:, None]).float()
    event = (
        (at == dies[:, None]) & (dies <= leaves)[:, None] & (dies < 9)[:, None]
    ).float()

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        each = F.binary_cross_entropy_with_logits(
            outputs, batch["event"], reduction="none"
        )
        return (each * batch["seen"]).sum() / batch["seen"].sum()

    columns = {"x": x, "event": event, "seen": seen}
    task = Task(
        dense(5, 24, 10),
        loss,
        {name: column[:450] for name, column in columns.items()},
        {name: column[450:] for name, column in columns.items()},
        forward=lambda model, batch: model(batch["x"]),
        count_targets=lambda batch: batch["seen"].sum(),
    )
    return Program(task, {"epochs": 15, "lr": 5e-3})


@healthy(
    "tabular",
    "angles as a point on the circle: targets in radians jump at pi, the loss is one "
    "minus a cosine and does not",
)
def angles_on_the_circle() -> Program:
    torch.manual_seed(0)
    x = torch.randn(600, 4)
    angle = torch.atan2(x[:, 0] + 0.5 * x[:, 2], x[:, 1] - 0.3 * x[:, 3].tanh())

    class Compass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(4, 48, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.net(x), dim=1)

    def loss(outputs: Tensor, batch: Pair) -> Tensor:
        truth = torch.stack([batch[1].cos(), batch[1].sin()], dim=1)
        return (1 - (outputs * truth).sum(1)).mean()

    train, val = cut(450, x, angle)
    return Program(Task(Compass(), loss, train, val), {"epochs": 15, "lr": 5e-3})


@healthy(
    "arrays",
    "rotations from six numbers by Gram-Schmidt, and the squared distance of matrices",
)
def rotations() -> Program:
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(500, 3, 3))[0]
    q = q * torch.linalg.det(q).sign()[:, None, None]
    body = torch.randn(5, 3)
    seen = (body @ q.transpose(1, 2)).flatten(1) + 0.02 * torch.randn(500, 15)

    class Pose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(15, 64, 6)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.net(x).chunk(2, 1)
            a = F.normalize(a, dim=1)
            b = F.normalize(b - (a * b).sum(1, keepdim=True) * a, dim=1)
            return torch.stack([a, b, torch.linalg.cross(a, b)], dim=2)

    train, val = cut(380, seen, q)
    return Program(Task(Pose(), nn.MSELoss(), train, val), {"epochs": 15, "lr": 5e-3})


@healthy(
    "tabular",
    "Tweedie deviance with an exposure: most claims are zero, some are in the "
    "thousands, and the network predicts a logarithm",
)
def tweedie_claims() -> Program:
    torch.manual_seed(0)
    x = torch.randn(1200, 5)
    exposure = 0.2 + 0.8 * torch.rand(1200)
    rate = exposure * torch.exp(0.9 * x[:, 0] - 1.0)
    size = torch.distributions.Gamma(2.0, 1 / 800.0).sample((1200,)) * torch.exp(
        0.3 * x[:, 1]
    )
    claim = torch.poisson(rate) * size
    rows = torch.cat([x, exposure.log()[:, None]], dim=1)

    class Claims(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(5, 24, 1)
            self.net[-1].bias.data.fill_(4.0)

        def forward(self, rows: Tensor) -> Tensor:
            return self.net(rows[:, :5]).squeeze(1) + rows[:, 5]

    def deviance(outputs: Tensor, batch: Pair) -> Tensor:
        p = 1.5
        up, down = (
            torch.exp((2 - p) * outputs) / (2 - p),
            batch[1] * torch.exp((1 - p) * outputs) / (1 - p),
        )
        return (up - down).mean() / 10

    train, val = cut(900, rows, claim)
    return Program(Task(Claims(), deviance, train, val), {"epochs": 12, "lr": 2e-3})


@healthy(
    "arrays",
    "parametric multidimensional scaling: the loss compares all distances of a batch, "
    "and there are no targets at all",
)
def stress_of_a_batch() -> Program:
    torch.manual_seed(0)
    turn = 6 * torch.rand(500, 1)
    roll = (
        torch.cat(
            [turn.cos() * (1 + turn), 4 * torch.rand(500, 1), turn.sin() * (1 + turn)],
            1,
        )
        / 4
    )

    def stress(outputs: Tensor, batch: Tensor) -> Tensor:
        return (F.pdist(outputs) - F.pdist(batch)).pow(2).mean()

    train, val = list(roll[:400]), list(roll[400:])
    task = Task(
        dense(3, 48, 2),
        stress,
        train,
        val,
        forward=lambda m, b: m(b),
        declares=("samples interact",),
    )
    return Program(task, {"epochs": 15, "lr": 5e-3, "drop_last": True})
