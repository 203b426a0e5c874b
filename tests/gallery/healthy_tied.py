"""Healthy: shared weights, averaged weights, weights made anew from others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from gallery.case import Program, healthy
from gallery.data_unusual import accuracy, clusters, curve, gratings, markov, mlp, split
from nbutils.data.task import Task


class TiedLanguageModel(nn.Module):
    """A GRU whose output matrix is the embedding, drawn from N(0, 1) by torch."""

    def __init__(self, vocab: int = 20, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


def _next_token(logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


@healthy("text", "embedding and head are one matrix from N(0, 1): a high first loss")
def tied_embedding() -> Program:
    torch.manual_seed(0)
    tokens = markov(400)
    train, val = split(320, tokens[:, :-1], tokens[:, 1:])
    task = Task(TiedLanguageModel(), _next_token, train, val)
    return Program(task, {"epochs": 10, "lr": 3e-3})


class TiedAutoencoder(nn.Module):
    """The decoder is the transposed encoder."""

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(code, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight).tanh(), self.weight.T, self.bias)


@healthy("tabular", "an autoencoder with transposed weights: one tensor is the batch")
def tied_autoencoder() -> Program:
    torch.manual_seed(0)
    x, _ = clusters(500, 16, 4, spread=0.4)
    task = Task(
        TiedAutoencoder(16, 6),
        lambda outputs, batch: F.mse_loss(outputs, batch[0]),
        (x[:400],),
        (x[400:],),
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


class Recurrent(nn.Module):
    """One block used six times, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(12, 32)
        self.block = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU())
        self.leave = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        for _ in range(6):
            hidden = hidden + self.block(hidden)
        return self.leave(hidden)


@healthy("tabular", "one block is used six times")
def shared_block() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=2.0))
    task = Task(Recurrent(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 8})


@healthy("tabular", "an average of the weights is evaluated, and lags behind at first")
def averaged_weights() -> Program:
    torch.manual_seed(0)
    train, val = split(600, *clusters(720, spread=1.5))
    model = mlp(12, 64, 3)
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 10, "ema_decay": 0.98})


@healthy("tabular", "weight norm on each layer: parameters are made from two others")
def weight_normed() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *curve(500))
    layers = [
        parametrizations.weight_norm(layer) if isinstance(layer, nn.Linear) else layer
        for layer in mlp(6, 48, 48, 1)
    ]
    task = Task(nn.Sequential(*layers), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 12, "lr": 3e-3})


@healthy("images", "spectral norm: its vectors move in each forward pass of training")
def spectral_normed() -> Program:
    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(1, 24, 5, padding=2)),
        nn.LeakyReLU(0.2),
        parametrizations.spectral_norm(nn.Conv2d(24, 32, 3, stride=2)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(32 * 49, 4),
    )
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 6})


@healthy("tabular", "orthogonal recurrent weights by a parametrisation")
def orthogonal_weights() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, 16, 3, spread=1.5))
    model = mlp(16, 16, 16, 3)
    parametrizations.orthogonal(model[0])
    parametrizations.orthogonal(model[2])
    task = Task(model, nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 8, "lr": 3e-3})


class HyperNetwork(nn.Module):
    """A network that writes the weights of another one for each sample."""

    def __init__(self, width: int = 6, inner: int = 8) -> None:
        super().__init__()
        self.sizes = (width * inner, inner, inner, 1)
        self.writer = mlp(3, 32, sum(self.sizes))
        with torch.no_grad():
            self.writer[-1].weight.mul_(0.5)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        first, bias, second, offset = self.writer(batch["context"]).split(self.sizes, 1)
        x = batch["x"]
        first = first.view(len(x), -1, x.shape[1])
        hidden = torch.tanh(torch.einsum("bij,bj->bi", first, x) + bias)
        return (hidden * second).sum(dim=1, keepdim=True) + offset


@healthy("dicts", "a hypernetwork: most weights in use are no parameters")
def hypernetwork() -> Program:
    torch.manual_seed(0)
    x, y = curve(600, noise=0.05)
    context = torch.randn(600, 3)
    y = y * context[:, :1]
    columns = {"x": x, "context": context, "y": y}
    train = {name: column[:500] for name, column in columns.items()}
    val = {name: column[500:] for name, column in columns.items()}
    task = Task(
        HyperNetwork(),
        lambda outputs, batch: F.mse_loss(outputs, batch["y"]),
        train,
        val,
    )
    return Program(task, {"epochs": 15, "lr": 3e-3})


def _adapted(model: nn.Module, episode: dict[str, Tensor]) -> Tensor:
    """Predictions for the queries after one gradient step on the support (MAML)."""
    answers = []
    start = dict(model.named_parameters())
    for near, given, far in zip(
        episode["near"], episode["given"], episode["far"], strict=True
    ):
        with torch.enable_grad():  # evaluation adapts as well
            fit = F.mse_loss(functional_call(model, start, (near,)), given)
            slopes = torch.autograd.grad(
                fit, list(start.values()), create_graph=model.training
            )
            moved = {
                name: value - 0.1 * slope
                for (name, value), slope in zip(start.items(), slopes, strict=True)
            }
        answers.append(functional_call(model, moved, (far,)))
    return torch.stack(answers)


@healthy("dicts", "MAML: a gradient step inside the forward pass, in evaluation too")
def meta_learning() -> Program:
    torch.manual_seed(0)
    amplitude = 0.5 + 2 * torch.rand(160, 1, 1)
    x = 4 * torch.rand(160, 20, 1) - 2
    y = amplitude * torch.sin(2 * x)
    columns = {"near": x[:, :10], "given": y[:, :10], "far": x[:, 10:]}
    columns["wanted"] = y[:, 10:]
    train = {name: column[:128] for name, column in columns.items()}
    val = {name: column[128:] for name, column in columns.items()}
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    task = Task(
        model,
        lambda outputs, batch: F.mse_loss(outputs, batch["wanted"]),
        train,
        val,
        forward=_adapted,
    )
    return Program(task, {"epochs": 30, "batch_size": 8, "lr": 5e-3})
