"""Healthy: derivatives of the network in the loss, and simulated time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_unusual import split
from nbutils.data.task import Task


class Heat:
    """Residual of u'' = -sin(x) and the boundary, with derivatives of the network."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, _outputs: Tensor, batch: Tensor | tuple) -> dict[str, Tensor]:
        with torch.enable_grad():
            x = batch[0].detach().requires_grad_()
            u = self.model(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        edges = self.model(torch.tensor([[0.0], [torch.pi]], device=x.device))
        return {
            "equation": (bend + x.sin()).square().mean(),
            "boundary": edges.square().mean(),
        }


@healthy("tabular", "a physics-informed loss: second derivatives, no targets")
def physics_informed() -> Program:
    torch.manual_seed(0)
    x = torch.pi * torch.rand(320, 1)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    model.append(nn.Linear(32, 1))
    task = Task(model, Heat(model), x[:256], x[256:])
    return Program(task, {"epochs": 25, "lr": 5e-3, "precision": "fp32"})


class NeuralODE(nn.Module):
    """The same field is followed for ten steps (Euler)."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, start: Tensor) -> Tensor:
        path, state = [], start
        for step in range(10):
            now = torch.full_like(state[:, :1], step / 10)
            state = state + 0.1 * self.field(torch.cat([state, now], dim=1))
            path.append(state)
        return torch.stack(path, dim=1)


@healthy("sequences", "a neural ODE: one field applied ten times, paths as targets")
def neural_ode() -> Program:
    torch.manual_seed(0)
    start = torch.randn(400, 2)
    time = torch.arange(1, 11) / 10
    turn = torch.stack([time.cos(), time.sin(), -time.sin(), time.cos()], dim=1)
    path = torch.einsum("tij,bj->bti", turn.view(10, 2, 2), start)
    path = path * (-0.3 * time)[None, :, None].exp()
    train, val = split(320, start, path)
    task = Task(NeuralODE(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 15, "lr": 5e-3})


@healthy("tabular", "an energy as output, forces as its gradient, both in the loss")
def forces_from_energy() -> Program:
    torch.manual_seed(0)
    place = torch.randn(500, 6)
    energy = (place.square().sum(dim=1, keepdim=True) / 4).sin()
    pull = -(place.square().sum(dim=1, keepdim=True) / 4).cos() * place / 2
    train, val = split(400, place, energy, pull)

    def forward(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            where = batch[0].detach().requires_grad_()
            total = model(where)
            (slope,) = torch.autograd.grad(total.sum(), where, create_graph=True)
        return total, -slope

    def loss(outputs: tuple[Tensor, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        return F.mse_loss(outputs[0], batch[1]) + F.mse_loss(outputs[1], batch[2])

    model = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
    task = Task(model.append(nn.Linear(64, 1)), loss, train, val, forward=forward)
    return Program(task, {"epochs": 25, "lr": 5e-3, "precision": "fp32"})
