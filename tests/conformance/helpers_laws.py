"""What the laws are judged by: plain PyTorch, plain files, and nothing of ours.

The engine is driven through its public names; everything it is compared with is
written here a second time, in the most direct way.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

import nbutils as nb

__all__ = [
    "Augmented",
    "Endless",
    "Rows",
    "StopAt",
    "Stream",
    "Watch",
    "assert_close",
    "assert_equal",
    "assert_whole",
    "batches_of",
    "copied",
    "events_of",
    "fresh_dir",
    "law",
    "net",
    "plain_train",
    "read_newest",
    "train",
    "windows_of",
    "without_times",
]

QUIET: dict[str, Any] = {"preflight": "skip", "panel": "off"}
_numbers = itertools.count()


def law(examples: int) -> settings:
    """Hypothesis settings: the same few, varied examples in every run."""
    return settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        phases=(Phase.explicit, Phase.generate),  # shrinking takes minutes of training
        suppress_health_check=list(HealthCheck),
    )


def fresh_dir() -> Path:
    """A run directory that no example has used."""
    return Path(f"run-{next(_numbers)}")


def train(
    task: nb.Task, run_dir: Path | None = None, *callbacks: Any, **options: Any
) -> nb.TrainResult:
    """Train through the front door, without preflight and panel.

    Each run directory has a ``runs_dir`` of its own: what one run learns about the
    memory of this machine is no business of the next.
    """
    folder = run_dir or fresh_dir()
    own = {**QUIET, "runs_dir": f"{folder}-runs", **options}
    return nb.TrainingCoordinator(
        task, run_dir=folder, callbacks=callbacks, **own
    ).train()


class StopAt(nb.Callback):
    """Asks for the end when ``hook`` fires for the ``count``-th time."""

    def __init__(self, count: int, hook: str = "on_step_end") -> None:
        self._left = count
        setattr(self, hook, self._tick)

    def _tick(self, state: Any) -> None:
        self._left -= 1
        if self._left == 0:
            state.request_stop("enough")


class Watch(nb.Callback):
    """Notes what each step reports."""

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.refused: list[bool] = []
        self.ends = 0

    def on_step_end(self, state: Any) -> None:
        self.lrs.append(state.lr)
        self.losses.append(state.last.loss)
        self.refused.append(state.last.is_refused)

    def on_fit_end(self, state: Any) -> None:
        self.ends += 1


class Rows(Dataset[Any]):
    """Rows of tensors, read one by one; counts what was read."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        return tuple(column[index] for column in self.columns)


class Augmented(Rows):
    """Rows with noise from each of the three generators that people use."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        noise = torch.randn(x.shape) + float(np.random.randn()) + random.gauss(0, 1)
        return x + 0.1 * noise, y


class Endless(IterableDataset[Any]):
    """Rows in an order and with noise drawn while it is read; of unknown length."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Any]:
        for index in torch.randperm(len(self.x)).tolist():
            noise = torch.randn(self.x.shape[1:]) + float(np.random.randn())
            yield self.x[index] + 0.1 * noise + random.gauss(0, 0.1), self.y[index]


class Stream(Endless):
    """The same, and it knows its length."""

    def __len__(self) -> int:
        return len(self.x)


def net(
    inputs: int = 6, outputs: int = 2, *, dropout: float = 0.2, norm: bool = True
) -> nn.Sequential:
    """A small network; with dropout and BatchNorm it has every kind of state."""
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(inputs, 8),
        nn.BatchNorm1d(8) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Linear(8, outputs),
    )


def batches_of(length: int, batch_size: int, drop_last: bool = False) -> list[Any]:
    """Index ranges of the batches of an epoch that is read in order."""
    starts = range(0, length, batch_size)
    found = [list(range(s, min(s + batch_size, length))) for s in starts]
    return [b for b in found if len(b) == batch_size or not drop_last]


def windows_of(batches: Sequence[list[int]], accumulation: int) -> list[list[int]]:
    """Samples of each window of an epoch."""
    starts = range(0, len(batches), accumulation)
    groups = [batches[start : start + accumulation] for start in starts]
    return [list(itertools.chain.from_iterable(group)) for group in groups]


def plain_train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any], Tensor],
    epochs: Sequence[Sequence[Any]],
    *,
    clip_norm: float | None = 1.0,
    clip_value: float | None = None,
    lrs: Callable[[int], float] | None = None,
    seed: int = 0,
) -> list[float]:
    """The loop everybody writes; a window that is not finite is left out.

    Args:
        loss: The mean loss of a window given as one big batch.
        epochs: For each pass its windows.
        lrs: Learning rate of the n-th *applied* update.

    Returns:
        The loss of each window.
    """
    torch.manual_seed(seed)
    model.train()
    losses, applied = [], 0
    for window in itertools.chain.from_iterable(epochs):
        kept = {k: v.clone() for k, v in model.named_buffers()}
        if lrs is not None:
            for group in optimizer.param_groups:
                group["lr"] = lrs(applied)
        value = loss(window)
        value.backward()
        if clip_value is not None:
            nn.utils.clip_grad_value_(model.parameters(), clip_value)
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or float("inf"))
        if torch.isfinite(value) and torch.isfinite(norm):
            optimizer.step()
            applied += 1
        else:
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
        optimizer.zero_grad(set_to_none=True)
        losses.append(value.item())
    return losses


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's tensors."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(left: Any, right: Any, path: str = "") -> None:
    """Both are the same, bit for bit, all the way down."""
    assert type(left) is type(right), f"{path}: {type(left)} and {type(right)}"
    if isinstance(left, Tensor):
        same = left.dtype == right.dtype and torch.equal(left, right)
        both_nan = left.is_floating_point() and left.shape == right.shape
        same = same or (both_nan and torch.equal(left.isnan(), right.isnan()))
        assert same, f"{path}: {left} and {right}"
    elif isinstance(left, dict):
        assert list(map(str, left)) == list(map(str, right)), path
        for key in left:
            assert_equal(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_equal(a, b, f"{path}[{number}]")
    else:
        both_nan = left != left and right != right
        assert both_nan or left == right, f"{path}: {left!r} and {right!r}"


def assert_close(left: nn.Module, right: nn.Module, rtol: float, atol: float) -> None:
    """All tensors of two models agree to a tolerance."""
    theirs = right.state_dict()
    for name, value in left.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=rtol, atol=atol)


def events_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Events of one kind, read as any other program would."""
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def assert_whole(folder: Path) -> None:
    """Each file is there with the size and the SHA-256 that the manifest states."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "state.pt"}
    for name, stated in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert len(content) == stated["bytes"], folder / name
        assert hashlib.sha256(content).hexdigest() == stated["sha256"], folder / name


def read_newest(run_dir: Path) -> dict[str, Any]:
    """Everything in the newest checkpoint, read with the formats' own libraries."""
    folders = (run_dir / "checkpoints").glob("step-*")
    newest = max(folders, key=lambda path: int(path.name.split("-")[1]))
    assert_whole(newest)
    state = torch.load(newest / "state.pt", weights_only=True)
    return {"weights": load_file(newest / "model.safetensors"), **state}


def without_times(value: Any) -> Any:
    """A checkpoint's content without what a clock or a path put into it."""
    if isinstance(value, dict):
        return {
            key: without_times(item)
            for key, item in value.items()
            if not (isinstance(key, str) and _is_time(key))
        }
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def _is_time(key: str) -> bool:
    return key in ("path", "seconds") or key.endswith(("_seconds", "_s", "_ms"))
