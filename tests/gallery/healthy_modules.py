"""Healthy: modules that are scripted, hooked, routed, or idle in part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.case import Program, healthy
from gallery.data_unusual import accuracy, clusters, curve, gratings, mlp, split
from nbutils.data.task import Task


class Experts(nn.Module):
    """The best of eight experts per sample; some get no sample for a long time."""

    def __init__(self, num: int = 8) -> None:
        super().__init__()
        self.router = nn.Linear(12, num)
        self.experts = nn.ModuleList(mlp(12, 16, 3) for _ in range(num))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        gate = self.router(x).softmax(dim=1)
        weight, chosen = gate.max(dim=1)
        answer = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                told = expert(x[rows]) * weight[rows, None]
                answer = answer.index_add(0, rows, told.to(answer.dtype))
        return {"answer": answer, "gate": gate, "chosen": chosen}


def _balanced(outputs: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> dict:
    num = outputs["gate"].shape[1]
    share = F.one_hot(outputs["chosen"], num).float().mean(dim=0)
    return {
        "task": F.cross_entropy(outputs["answer"], batch[1]),
        "balance": num * (share * outputs["gate"].mean(dim=0)).sum(),
    }


@healthy("tabular", "a mixture of experts: idle experts get no gradient in a step")
def mixture_of_experts() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=1.5))
    task = Task(Experts(), _balanced, train, val, loss_weights={"balance": 0.01})
    return Program(task, {"epochs": 10, "batch_size": 16, "lr": 3e-3})


class Branching(nn.Module):
    """A head for each of three sources; a batch may lack one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6, 48, 24)
        self.heads = nn.ModuleDict({name: nn.Linear(24, 1) for name in "abc"})

    def forward(self, batch: dict) -> Tensor:
        hidden = self.body(batch["x"]).relu()
        names = batch["source"]
        return torch.cat(
            [self.heads[name](hidden[row : row + 1]) for row, name in enumerate(names)]
        )


@healthy("dicts", "texts in the batch choose the head, the rarest in one of 30 samples")
def head_by_name() -> Program:
    torch.manual_seed(0)
    x, y = curve(360)
    factor = {"a": 1.0, "b": -1.0, "c": 0.5}
    names = ["c" if row % 30 == 7 else "ab"[row % 2] for row in range(360)]
    samples = [
        {"x": x[row], "source": name, "y": y[row] * factor[name]}
        for row, name in enumerate(names)
    ]
    task = Task(
        Branching(),
        lambda outputs, batch: F.mse_loss(outputs, batch["y"]),
        samples[:300],
        samples[300:],
    )
    return Program(task, {"epochs": 12, "lr": 3e-3, "batch_size": 16})


class Scripted(nn.Module):
    """A network with a loop, for torch.jit.script."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(12, 32)
        self.inner = nn.Linear(32, 32)
        self.leave = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        for _ in range(3):
            hidden = hidden + torch.relu(self.inner(hidden))
        return self.leave(hidden)


@healthy("tabular", "the model is a ScriptModule")
def scripted() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=1.5))
    model = torch.jit.script(Scripted())
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 8, "precision": "fp32"})


class Watched(nn.Module):
    """Hooks of the user's own: one keeps activations, one scales a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(12, 48, 48)
        self.head = nn.Linear(48, 3)
        self.seen: list[float] = []
        self.body.register_forward_hook(self._keep)
        self.head.weight.register_hook(lambda slope: 0.5 * slope)
        self.head.register_forward_pre_hook(lambda _module, args: (args[0].relu(),))

    def _keep(self, _module: nn.Module, _args: tuple, output: Tensor) -> None:
        self.seen = [*self.seen[-9:], float(output.detach().abs().mean())]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@healthy("tabular", "hooks of the user: on activations, inputs and a gradient")
def hooked() -> Program:
    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=1.5))
    task = Task(Watched(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 8})


@healthy("images", "batch norm that is frozen by eval() while the network trains")
def frozen_batch_norm() -> Program:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            return self

    torch.manual_seed(0)
    train, val = split(320, *gratings(400))
    layers = [nn.Conv2d(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)]
    task = Task(Frozen(*layers, *pool), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 10, "lr": 3e-3})


@healthy("tabular", "Monte Carlo dropout: it draws in evaluation as well, on purpose")
def monte_carlo_dropout() -> Program:
    class Sampled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 96), mlp(96, 48, 1)

        def forward(self, x: Tensor) -> Tensor:
            draws = 1 if self.training else 8
            hidden = self.enter(x).relu()
            answers = [self.leave(F.dropout(hidden, 0.2)) for _ in range(draws)]
            return torch.stack(answers).mean(dim=0)

    torch.manual_seed(0)
    train, val = split(480, *curve(600))
    task = Task(Sampled(), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 20, "lr": 3e-3})


@healthy("tabular", "inputs are normalised by running statistics of a buffer")
def running_input_norm() -> Program:
    torch.manual_seed(0)
    x, y = curve(600)
    x = x * torch.logspace(-3, 4, 6) + torch.linspace(-5, 500, 6)
    train, val = split(480, x, y)
    model = nn.Sequential(nn.BatchNorm1d(6, affine=False, momentum=None), mlp(6, 48, 1))
    task = Task(model, nn.MSELoss(), train, val)
    return Program(task, {"epochs": 15, "lr": 3e-3})


@healthy("tabular", "an ensemble of five networks trained as one; outputs (5, B, C)")
def ensemble() -> Program:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(mlp(12, 32, 3) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([member(x) for member in self.members])

    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=2.0))

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        each = [F.cross_entropy(member, batch[1]) for member in outputs]
        return torch.stack(each).mean()

    return Program(Task(Ensemble(), loss, train, val), {"epochs": 8})


@healthy("tabular", "a model with a part for export that training never calls")
def part_for_export() -> Program:
    class WithExport(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(12, 48, 3)
            self.register_buffer("temperature", torch.ones(()))
            self.calibrated = nn.Softmax(dim=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

        @torch.jit.export
        def predict(self, x: Tensor) -> Tensor:
            return self.calibrated(self.body(x) / self.temperature)

    torch.manual_seed(0)
    train, val = split(400, *clusters(500, spread=1.5))
    task = Task(WithExport(), nn.CrossEntropyLoss(), train, val)
    return Program(task, {"epochs": 8})


@healthy("tabular", "the model is a single linear layer, and that is the right one")
def linear_model() -> Program:
    torch.manual_seed(0)
    x = torch.randn(500, 10)
    y = x @ torch.linspace(-1, 1, 10)[:, None] + 3 + 0.1 * torch.randn(500, 1)
    train, val = split(400, x, y)
    task = Task(nn.Linear(10, 1), nn.MSELoss(), train, val)
    return Program(task, {"epochs": 25, "lr": 2e-2})
