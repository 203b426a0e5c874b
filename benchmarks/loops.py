"""The workloads of the benchmarks, and the loops that train them.

Loops written by hand:

* ``raw``: ``DataLoader(TensorDataset, shuffle)``, default AdamW, ``clip_grad_norm_``;
* ``raw, our order``: the same, its batches from our loader;
* ``lean``: with our loader and fused AdamW.

Ours, without preflight and panel:

* ``nbutils, same flags``: given raw's DataLoader and raw's optimizer; defaults else;
* ``nbutils, bare``: watchdogs off, no step is logged;
* ``nbutils``: out of the box.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import nbutils as nb
from nbutils.data.loaders import make_loader

__all__ = ["ARMS", "TWINS", "Case", "Workload", "assert_equal_work", "workload"]

CLIP_NORM, LR, WEIGHT_DECAY = 1.0, 1e-3, 0.01
Data = tuple[Tensor, Tensor]


class Sequence(nn.Module):
    """Token embedding, four encoder layers, a class per sequence."""

    def __init__(self, width: int = 128, length: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        features_BTD = self.layers(self.embed(tokens_BT) + self.position)
        return self.head(features_BTD.mean(1))


def mlp() -> nn.Module:
    """W1: so small that a step is nearly all overhead."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """W2: a small network for 32 x 32 images."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


@dataclass(frozen=True)
class Workload:
    """A model and its data."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    batch_size: int

    def data(self, num_batches: int) -> Data:
        """Inputs and classes of so many batches."""
        torch.manual_seed(0)
        num_samples = self.batch_size * num_batches
        return self.inputs(num_samples), torch.randint(10, (num_samples,))

    def model(self) -> nn.Module:
        """The same weights each time."""
        torch.manual_seed(1)
        return self.build()


def workload(name: str) -> Workload:
    """W1, W2 or W3."""
    if name == "W1":
        return Workload("W1 MLP", mlp, lambda n: torch.randn(n, 64), 32)
    if name == "W2":
        return Workload("W2 CNN", cnn, lambda n: torch.randn(n, 3, 32, 32), 64)
    return Workload(
        "W3 transformer", Sequence, lambda n: torch.randint(100, (n, 128)), 16
    )


@dataclass(frozen=True)
class Case:
    """What is compared: a workload, its format and its windows.

    Attributes:
        short, long: Optimizer steps of the two runs whose difference is measured.
        repeats: Such pairs of each arm.
    """

    work: Workload
    short: int
    long: int
    repeats: int
    precision: str = "fp32"
    accumulation: int = 1

    @property
    def name(self) -> str:
        """Workload, format and batches of a window."""
        return f"{self.work.name}, {self.precision}, accumulation {self.accumulation}"

    def data(self) -> Data:
        """Enough samples that no run ends an epoch: that is measured apart."""
        return self.work.data(self.accumulation * (self.long + 1))


def raw(case: Case, data: Data, steps: int, _folder: Path) -> nn.Module:
    """The loop of a tutorial."""
    model = case.work.model()
    loader = DataLoader(TensorDataset(*data), case.work.batch_size, shuffle=True)
    return loop(case, model, plain(model), loader, steps)


def ordered(case: Case, data: Data, steps: int, _folder: Path) -> nn.Module:
    """The same loop over our loader's batches."""
    model = case.work.model()
    return loop(case, model, plain(model), our_loader(case, model, data), steps)


def lean(case: Case, data: Data, steps: int, _folder: Path) -> nn.Module:
    """The same with a fused optimizer as well."""
    model = case.work.model()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True
    )
    return loop(case, model, optimizer, our_loader(case, model, data), steps)


def plain(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with torch's own flags."""
    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)


def our_loader(case: Case, model: nn.Module, data: Data) -> Iterable[Any]:
    """The batches that our loop reads, in its order."""
    config = nb.RunConfig(batch_size=case.work.batch_size)
    return make_loader(nb.Task(model, cross_entropy, data), "train", config)


def loop(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[Any],
    steps: int,
) -> nn.Module:
    """Train for ``steps`` updates, over epochs where the data are shorter."""
    model.train()
    half = case.precision == "bf16"
    accumulation = case.accumulation
    batch = 0
    while True:
        for x, y in loader:
            if half:
                with torch.autocast("cpu", torch.bfloat16):
                    outputs = model(x)
                loss = cross_entropy(outputs.float(), y)
            else:
                loss = cross_entropy(model(x), y)
            (loss / accumulation if accumulation > 1 else loss).backward()
            batch += 1
            if batch % accumulation:
                continue
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            if batch == steps * accumulation:
                return model


def ours(
    case: Case, data: Any, steps: int, folder: Path, task: Any = None, **more: Any
) -> nn.Module:
    """``TrainingCoordinator`` with its defaults: guards, event log, checkpoint."""
    task = task or nb.Task(case.work.model(), cross_entropy, data)
    settings: dict[str, Any] = {"preflight": "skip", "panel": "off", **more}
    nb.TrainingCoordinator(
        task,
        run_dir=Path(tempfile.mkdtemp(dir=folder)) / "run",
        batch_size=case.work.batch_size,
        accumulation=case.accumulation,
        precision=case.precision,
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP_NORM,
        max_steps=steps,
        device="cpu",
        **settings,
    ).train()
    return task.model


def same_flags(
    case: Case, data: Data, steps: int, folder: Path, **more: Any
) -> nn.Module:
    """Ours, given the loader and the optimizer of ``raw``."""
    loader = DataLoader(TensorDataset(*data), case.work.batch_size, shuffle=True)
    task = nb.Task(case.work.model(), cross_entropy, loader, make_optimizer=plain)
    return ours(case, None, steps, folder, task, **more)


def bare(case: Case, data: Data, steps: int, folder: Path) -> nn.Module:
    """Ours, with nothing that looks on."""
    off: dict[str, Any] = {"watchdogs": "off", "log_every_steps": 10**9}
    return ours(case, data, steps, folder, **off)


Arm = Callable[[Case, Data, int, Path], nn.Module]
ARMS: dict[str, Arm] = {
    "raw": raw,
    "raw, our order": ordered,
    "lean": lean,
    "nbutils, same flags": same_flags,
    "nbutils, bare": bare,
    "nbutils": ours,
}
# The loop by hand that does the very same: same order, same optimizer.
TWINS = {
    "nbutils, same flags": "raw, our order",
    "nbutils, bare": "lean",
    "nbutils": "lean",
}


def assert_equal_work(case: Case, folder: Path) -> None:
    """Final weights: each arm of ours against its twin, and the twins by decimals."""
    data = case.data()
    weights = {
        name: nn.utils.parameters_to_vector(
            ARMS[name](case, data, case.short, folder).parameters()
        ).detach()
        for name in ("raw, our order", "lean", *TWINS)
    }
    for name, twin in TWINS.items():
        assert torch.equal(weights[name], weights[twin]), (case.name, name, twin)
    # Fused AdamW rounds otherwise; in bf16 a last bit of a weight moves an output.
    near = {"fp32": 1e-4, "bf16": 1e-2}[case.precision]
    torch.testing.assert_close(
        weights["lean"], weights["raw, our order"], rtol=0, atol=near
    )
