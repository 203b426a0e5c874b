"""What a batch costs: torch's DataLoader and ours, on tensors in memory.

* ``torch``: ``DataLoader(TensorDataset, shuffle=True)``;
* ``torch, __getitems__``: the same over a dataset that cuts a batch in one call;
* ``TensorLoader``: ours for tensors;
* ``torch`` and ``MapLoader`` over a dataset of single samples, read in this process
  or in two persistent workers; ours seeds each sample, so that neither order nor
  workers change its random numbers.

The time of a batch is the slope between a short and a long epoch, which cancels what
an epoch costs to start. Arms take turns, one thread. CPU time is that of this process:
work in workers shows in wall time only. Nothing here asserts a time.

    python benchmarks/loader.py [--full]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbutils as nb
from benchmarks.common import Figure, describe_machine, write_figures
from nbutils.data.loaders import make_loader


class Rows(Dataset[Any]):
    """Single samples of two tensors."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class Slices(Rows):
    """The same, and a whole batch at once."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A batch, already collated."""
        return self.x[indices], self.y[indices]


@dataclass(frozen=True)
class Workload:
    """Shape of a sample, and how many batches the two epochs have."""

    name: str
    shape: tuple[int, ...]
    batch_size: int
    short: int
    long: int

    def data(self, num_batches: int) -> tuple[Tensor, Tensor]:
        """Inputs, and the number of each sample."""
        count = self.batch_size * num_batches
        return torch.randn(count, *self.shape), torch.arange(count)


WORKLOADS = (
    Workload("W1: 64 floats, batch 32", (64,), 32, 50, 550),
    Workload("W2: 3 x 32 x 32 floats, batch 64", (3, 32, 32), 64, 10, 60),
)


def _torch(data: Dataset[Any], size: int, workers: int = 0, **more: Any) -> Any:
    if workers:
        more["persistent_workers"] = True
    return DataLoader(data, size, shuffle=True, num_workers=workers, **more)


def _ours(data: Any, size: int, workers: int = 0) -> Iterable[Any]:
    task = nb.Task(torch.nn.Linear(1, 1), cross_entropy, data)
    config = nb.RunConfig(batch_size=size, num_workers=workers)
    return Epochs(make_loader(task, "train", config))


class Epochs:
    """Our loader, at the next epoch each time."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._epoch = 0

    def __iter__(self) -> Iterator[Any]:
        self._loader.set_position(self._epoch)
        self._epoch += 1
        return iter(self._loader)

    def close(self) -> None:
        """End its workers."""
        self._loader.close()


def _unchanged(batch: Any) -> Any:
    return batch


Arm = Callable[[tuple[Tensor, Tensor], int], Iterable[Any]]
ARMS: dict[str, Arm] = {
    "torch, TensorDataset": lambda data, size: _torch(TensorDataset(*data), size),
    "torch, __getitems__": lambda data, size: _torch(
        Slices(*data), size, collate_fn=_unchanged
    ),
    "TensorLoader": _ours,
    "torch, samples": lambda data, size: _torch(Rows(*data), size),
    "MapLoader, samples": lambda data, size: _ours(Rows(*data), size),
    "torch, 2 workers": lambda data, size: _torch(Rows(*data), size, 2),
    "MapLoader, 2 workers": lambda data, size: _ours(Rows(*data), size, 2),
}


def epoch_seconds(loader: Iterable[Any], num_samples: int) -> tuple[float, float]:
    """CPU and wall seconds of an epoch; it must give each sample once."""
    seen: list[Tensor] = []
    cpu, wall = time.process_time(), time.perf_counter()
    for _, numbers in loader:
        seen.append(numbers)
    times = time.process_time() - cpu, time.perf_counter() - wall
    assert torch.cat(seen).sort().values.equal(torch.arange(num_samples))
    return times


def measure(work: Workload, repeats: int) -> dict[str, dict[int, list[Any]]]:
    """Seconds of the epochs of each arm, by their number of batches."""
    loaders = {
        (name, count): make(work.data(count), work.batch_size)
        for name, make in ARMS.items()
        for count in (work.short, work.long)
    }
    found: dict[str, dict[int, list[Any]]] = {
        name: {work.short: [], work.long: []} for name in ARMS
    }
    for repeat in range(repeats + 1):
        for (name, count), loader in loaders.items():
            times = epoch_seconds(loader, count * work.batch_size)
            if repeat:  # the first epoch starts workers
                found[name][count].append(times)
    for loader in loaders.values():
        if isinstance(loader, Epochs):
            loader.close()
    return found


def report(work: Workload, repeats: int) -> list[Figure]:
    """A row per arm; "least" is the slope between the fastest epochs."""
    found = measure(work, repeats)
    print(f"\n{work.name}: {repeats} repeats, {work.short} and {work.long} batches")
    print(
        f"  {'arm':22} {'CPU us/batch':>13} {'least':>8} {'wall us':>9} {'least':>8} "
        f"{'CPU x torch':>12} {'wall x':>7}"
    )
    base: tuple[float, float] | None = None
    figures = []
    for name, epochs in found.items():
        short, long = epochs[work.short], epochs[work.long]
        cpu, least_cpu = slopes(work, short, long, 0)
        wall, least_wall = slopes(work, short, long, 1)
        base = base or (least_cpu, least_wall)
        print(
            f"  {name:22} {cpu:13.1f} {least_cpu:8.1f} {wall:9.1f} {least_wall:8.1f} "
            f"{least_cpu / base[0]:12.2f} {least_wall / base[1]:7.2f}"
        )
        if name in ("TensorLoader", "MapLoader, samples"):
            title = f"{work.name.split(':')[0]} batch: {name}, x DataLoader"
            figures.append(Figure(title, least_cpu / base[0]))
    return figures


def slopes(work: Workload, short: Any, long: Any, clock: int) -> tuple[float, float]:
    """Microseconds per batch: median of the pairs, and between the fastest two."""
    batches = work.long - work.short
    pairs = zip(short, long, strict=True)
    found = [(b[clock] - a[clock]) / batches for a, b in pairs]
    least = min(b[clock] for b in long) - min(a[clock] for a in short)
    return 1e6 * statistics.median(found), 1e6 * least / batches


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--full", action="store_true", help="more repeats")
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe_machine()}; one thread; ratios of the least")
    figures: list[Figure] = []
    for work in WORKLOADS:
        figures += report(work, 15 if options.full else 5)
    write_figures(options.figures, figures)


if __name__ == "__main__":
    main()
