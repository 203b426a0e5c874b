"""Healthy: labels that are few, soft, wrong in a known way, or none at all."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_second import accuracy, customers, cut, dense, spots
from nbutils.data.task import Task

Pair = tuple[Tensor, Tensor]


@healthy(
    "tabular",
    "evidential classification: concentrations of a Dirichlet, a sum of squares in "
    "place of cross-entropy, and a KL term that counts one hundredth",
)
def evidential() -> Program:
    torch.manual_seed(0)

    def loss(outputs: Tensor, batch: Pair) -> dict[str, Tensor]:
        alpha = F.softplus(outputs) + 1
        truth = F.one_hot(batch[1], 3).float()
        total = alpha.sum(1, keepdim=True)
        p = alpha / total
        fit = ((truth - p) ** 2 + p * (1 - p) / (total + 1)).sum(1).mean()
        rest = torch.distributions.Dirichlet(truth + (1 - truth) * alpha)
        flat = torch.distributions.Dirichlet(torch.ones_like(alpha))
        return {"fit": fit, "kl": torch.distributions.kl_divergence(rest, flat).mean()}

    x, y = customers(600)
    train, val = cut(450, x, y)
    task = Task(
        dense(8, 48, 3),
        loss,
        train,
        val,
        metrics={"acc": accuracy},
        loss_weights={"kl": 0.01},
    )
    return Program(task, {"epochs": 20, "lr": 5e-3})


@healthy(
    "tabular",
    "recommendation by pairs: rows of two tables, negatives drawn in the dataset, a "
    "loss that starts at ln 2; most rows of the tables get no gradient in a step",
)
def ranking_by_sampled_negatives() -> Program:
    torch.manual_seed(0)
    users, items = 40, 60
    taste = torch.randn(users, 3) @ torch.randn(3, items)
    liked = (taste > 1.0).nonzero()

    class Clicks(torch.utils.data.Dataset):
        def __init__(self, pairs: Tensor) -> None:
            self.pairs = pairs

        def __len__(self) -> int:
            return len(self.pairs)

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            user, item = self.pairs[index]
            other = torch.randint(items, ())
            while taste[user, other] > 1.0:
                other = torch.randint(items, ())
            return {"user": user, "liked": item, "other": other}

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(users, 8), nn.Embedding(items, 8)
            nn.init.normal_(self.users.weight, std=0.1)
            nn.init.normal_(self.items.weight, std=0.1)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            gap = self.items(batch["liked"]) - self.items(batch["other"])
            return (self.users(batch["user"]) * gap).sum(1)

    order = torch.randperm(len(liked))
    cut_at = len(liked) * 4 // 5
    task = Task(
        Factors(),
        lambda outputs, batch: F.softplus(-outputs).mean(),
        Clicks(liked[order[:cut_at]]),
        Clicks(liked[order[cut_at:]]),
        metrics={"auc": lambda outputs, batch: (outputs > 0).float().mean().item()},
    )
    return Program(task, {"epochs": 15, "lr": 1e-2})


@healthy(
    "text",
    "word vectors by negative sampling: two tables, the loss is made inside the "
    "network and comes back as its output",
)
def skip_gram() -> Program:
    torch.manual_seed(0)
    topic = torch.randint(6, (1500,))
    pairs = torch.stack(
        [
            topic * 10 + torch.randint(10, (1500,)),
            topic * 10 + torch.randint(10, (1500,)),
        ],
        1,
    )

    class SkipGram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.context = nn.Embedding(60, 16), nn.Embedding(60, 16)
            nn.init.zeros_(self.context.weight)

        def forward(self, pair: Tensor) -> Tensor:
            word = self.word(pair[:, 0])
            noise = torch.randint(60, (len(pair), 5))
            near = (word * self.context(pair[:, 1])).sum(1)
            far = (word[:, None] * self.context(noise)).sum(2)
            return F.softplus(-near).mean() + F.softplus(far).sum(1).mean()

    task = Task(
        SkipGram(), lambda outputs, batch: outputs, (pairs[:1200],), (pairs[1200:],)
    )
    return Program(task, {"epochs": 12, "lr": 2e-2})


@healthy(
    "tabular",
    "a third of the training labels is wrong in a known way; the loss passes the "
    "probabilities through the noise matrix, and validation is clean",
)
def forward_correction_of_label_noise() -> Program:
    torch.manual_seed(0)
    x, y = customers(700, noise=0.05)
    flipped = torch.where(torch.rand(700) < 0.3, (y + 1) % 3, y)
    noise = 0.7 * torch.eye(3) + 0.3 * torch.eye(3).roll(1, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(8, 32, 3)

        def forward(self, x: Tensor) -> Tensor:
            p = self.net(x).softmax(1)
            return torch.log((p @ noise if self.training else p) + 1e-6)

    task = Task(
        Net(),
        nn.NLLLoss(),
        (x[:520], flipped[:520]),
        (x[520:], y[520:]),
        metrics={"acc": accuracy},
    )
    return Program(task, {"epochs": 10, "lr": 5e-3})


@healthy(
    "tabular",
    "mean teacher: two thirds of the rows have label -1 and count in consistency "
    "alone; the teacher is an average in the network, without gradients",
)
def mean_teacher() -> Program:
    torch.manual_seed(0)
    x, y = customers(700, noise=0.05)
    y_train = torch.where(torch.rand(500) < 0.65, -1, y[:500])

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = dense(8, 48, 3), dense(8, 48, 3)
            self.teacher.load_state_dict(self.student.state_dict())
            self.teacher.requires_grad_(False)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            if self.training:
                with torch.no_grad():
                    for old, new in zip(
                        self.teacher.parameters(),
                        self.student.parameters(),
                        strict=True,
                    ):
                        old.lerp_(new, 0.05)
            return {
                "student": self.student(x + 0.1 * torch.randn_like(x)),
                "teacher": self.teacher(x),
            }

    def loss(outputs: dict[str, Tensor], batch: Pair) -> dict[str, Tensor]:
        known = batch[1] >= 0
        each = F.cross_entropy(
            outputs["student"], batch[1].clamp(min=0), reduction="none"
        )
        told = (each * known).sum() / known.sum().clamp(min=1)
        near = F.mse_loss(
            outputs["student"].softmax(1), outputs["teacher"].softmax(1).detach()
        )
        return {"told": told, "near": near}

    def acc(outputs: dict[str, Tensor], batch: Pair) -> float:
        return accuracy(outputs["teacher"], batch)

    task = Task(
        Teacher(), loss, (x[:500], y_train), (x[500:], y[500:]), metrics={"acc": acc}
    )
    return Program(task, {"epochs": 20, "lr": 5e-3, "batch_size": 50})


@healthy(
    "tabular",
    "positive and unlabelled rows: a risk estimate that may fall below zero and is cut "
    "there; no row is known to be negative",
)
def positive_unlabelled() -> Program:
    torch.manual_seed(0)
    truth = (torch.rand(900) < 0.4).float()
    x = torch.randn(900, 6)
    x[:, :2] += 1.6 * truth[:, None]
    told = truth * (torch.rand(900) < 0.4)
    prior = 0.4

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        p, u = batch["told"], 1 - batch["told"]
        logit = outputs.squeeze(1)

        def mean(values: Tensor, of: Tensor) -> Tensor:
            return (values * of).sum() / of.sum().clamp(min=1)

        positive = prior * mean(torch.sigmoid(-logit), p)
        negative = mean(torch.sigmoid(logit), u) - prior * mean(torch.sigmoid(logit), p)
        return positive + negative.clamp(min=0)

    def acc(outputs: Tensor, batch: dict[str, Tensor]) -> float:
        return (
            ((outputs.squeeze(1) > 0).float() == batch["truth"]).float().mean().item()
        )

    columns = {"x": x, "told": told, "truth": truth}
    task = Task(
        dense(6, 32, 1),
        loss,
        {name: column[:700] for name, column in columns.items()},
        {name: column[700:] for name, column in columns.items()},
        forward=lambda model, batch: model(batch["x"]),
        metrics={"acc": acc},
    )
    return Program(task, {"epochs": 15, "lr": 3e-3, "batch_size": 100})


@healthy(
    "tabular",
    "crowd votes as soft labels: entropy stays in the loss, which never nears zero",
)
def crowd_votes() -> Program:
    torch.manual_seed(0)
    x = torch.randn(500, 8)
    p = (1.2 * x @ torch.randn(8, 5)).div(1.5).softmax(1)
    votes = torch.distributions.Multinomial(12, probs=p).sample() / 12
    train, val = cut(380, x, votes)
    task = Task(nn.Linear(8, 5), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 20, "lr": 2e-2})


@healthy(
    "images",
    "noise to noise: input and target are two noisy shots of one picture, so the loss "
    "stays above the noise's variance for ever",
)
def noise_to_noise() -> Program:
    torch.manual_seed(0)
    x, _ = spots(260)
    one, two = x + 0.3 * torch.randn_like(x), x + 0.3 * torch.randn_like(x)

    class Clean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 5, padding=2),
                nn.ReLU(),
                nn.Conv2d(16, 16, 5, padding=2),
                nn.ReLU(),
                nn.Conv2d(16, 3, 3, padding=1),
            )

        def forward(self, x: Tensor) -> Tensor:
            return x - self.net(x)

    train, val = cut(200, one, two)
    return Program(Task(Clean(), nn.MSELoss(), train, val), {"epochs": 10, "lr": 3e-3})


@healthy(
    "images",
    "detection of rare objects on a grid: 1 cell in 64 is positive, the bias starts at "
    "-4, and box terms count positives alone",
)
def sparse_grid_detector() -> Program:
    torch.manual_seed(0)
    count = 300
    at = torch.randint(8, (count, 2))
    offset = torch.rand(count, 2)
    x = 0.1 * torch.randn(count, 1, 32, 32)
    for n in range(count):
        i, j = (4 * (at[n] + offset[n])).long().tolist()
        x[n, 0, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] += 1.5
    heat = torch.zeros(count, 8, 8)
    heat[torch.arange(count), at[:, 0], at[:, 1]] = 1
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=4),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 3, 1),
    )
    with torch.no_grad():
        model[-1].bias[0] = -4.0

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        truth = batch["heat"]
        p = F.binary_cross_entropy_with_logits(outputs[:, 0], truth, reduction="none")
        miss = (1 - torch.exp(-p)) ** 2
        boxes = (outputs[:, 1:] - batch["offset"][:, :, None, None]).abs().sum(1)
        return {
            "heat": (miss * p).sum() / truth.sum(),
            "box": (boxes * truth).sum() / truth.sum(),
        }

    columns = {"x": x, "heat": heat, "offset": offset}
    task = Task(
        model,
        loss,
        {name: column[:220] for name, column in columns.items()},
        {name: column[220:] for name, column in columns.items()},
        forward=lambda m, batch: m(batch["x"]),
        loss_weights={"box": 0.2},
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy(
    "arrays",
    "flow matching: time and noise are drawn in the forward pass, the target is a "
    "velocity, and the loss has a floor far above zero that no network beats",
)
def flow_matching() -> Program:
    torch.manual_seed(0)
    turn = 2 * math.pi * torch.rand(600)
    x = torch.stack([turn.cos(), turn.sin()], 1) * (1 + (turn > 3).float())[:, None]

    class Velocity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(3, 64, 64, 2)

        def forward(self, x: Tensor) -> Tensor:
            t, noise = torch.rand(len(x), 1), torch.randn_like(x)
            at = (1 - t) * noise + t * x
            return self.net(torch.cat([at, t], 1)) - (x - noise)

    train, val = list(x[:450]), list(x[450:])
    task = Task(
        Velocity(),
        lambda o, b: o.square().mean(),
        train,
        val,
        forward=lambda m, b: m(b),
    )
    return Program(task, {"epochs": 20, "lr": 3e-3})
