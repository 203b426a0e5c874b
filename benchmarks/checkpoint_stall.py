"""How long a save holds the loop up, beside what else there is.

A multi-layer perceptron with AdamW's moments is saved five ways, taking turns:
``torch.save``, ``safetensors``, ``dcp.save``, ``dcp.async_save`` (gloo, one process)
and ours. The stall is the time until the loop may go on. Each arm's write is waited
for before the next one starts. For the last two, the loop's throughput while the
write is under way is compared with its throughput alone.

Before any clock starts, our checkpoint must give back the same tensors.

    python benchmarks/checkpoint_stall.py [--size 1200] [--repeats 5] [--folder .]
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from nbutils.checkpoint.callback import CheckpointCallback
from nbutils.checkpoint.store import CheckpointStore
from nbutils.config import RunConfig
from nbutils.train.state import RunState

BYTES_PER_PARAMETER = 12  # a weight and two moments
NUM_LAYERS = 6


@dataclass
class Subject:
    """What is saved, and a step of the loop that goes on meanwhile."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: torch.Tensor

    @classmethod
    def of(cls, megabytes: float) -> Subject:
        width = int((megabytes * 1e6 / BYTES_PER_PARAMETER / NUM_LAYERS) ** 0.5)
        torch.manual_seed(0)
        layers = [nn.Linear(width, width) for _ in range(NUM_LAYERS)]
        model = nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        subject = cls(model, optimizer, torch.randn(8, width))
        subject.step()
        return subject

    def step(self) -> None:
        self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def num_bytes(self) -> int:
        return sum(p.nbytes for p in self.model.parameters()) * 3


# An arm saves into a folder, and gives what waits for its write, or none.
Wait = Callable[[], object]
Arm = Callable[[Path], Wait | None]


@dataclass
class Measured:
    """What one arm took."""

    stalls: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    extra_bytes: list[int] = field(default_factory=list)

    def row(self, base: float) -> str:
        stall, write = statistics.median(self.stalls), statistics.median(self.writes)
        rate = f"{statistics.median(self.rates):6.2f}" if self.rates else "     –"
        return (
            f"{stall:8.3f} {min(self.stalls):8.3f} {max(self.stalls):8.3f} "
            f"{stall / base:8.2f} {write:10.2f} {rate:>10} "
            f"{statistics.median(self.extra_bytes) / 1e6:12.0f}"
        )


def arms(subject: Subject, ours: CheckpointCallback, state: RunState) -> dict[str, Arm]:
    """The ways to save ``subject``, by name."""

    def with_torch(folder: Path) -> None:
        torch.save(subject.state(), folder / "all.pt")

    def with_safetensors(folder: Path) -> None:
        flat = dict(subject.model.state_dict())
        for number, moments in subject.optimizer.state_dict()["state"].items():
            flat.update({f"{number}.{name}": value for name, value in moments.items()})
        save_file(flat, folder / "all.safetensors")

    def with_dcp(folder: Path) -> None:
        dcp.save(subject.state(), checkpoint_id=str(folder))

    def with_async_dcp(folder: Path) -> Wait:
        return dcp.async_save(subject.state(), checkpoint_id=str(folder)).result

    def with_ours(_folder: Path) -> Wait:
        state.step += 1
        ours.save(state)
        return lambda: ours.finish(state)

    return {
        "torch.save": with_torch,
        "safetensors": with_safetensors,
        "dcp.save": with_dcp,
        "dcp.async_save": with_async_dcp,
        "nbutils": with_ours,
    }


def measure(
    arm: Arm, folder: Path, subject: Subject, alone: float, result: Measured
) -> None:
    """Save once; then step until the write is done, to see what it costs the loop."""
    gc.collect()
    before = psutil.Process().memory_info().rss
    with peak_memory() as peak:
        started = time.perf_counter()
        wait = arm(folder)
        result.stalls.append(time.perf_counter() - started)
        if wait is not None:
            wait()
        result.writes.append(time.perf_counter() - started)
    result.extra_bytes.append(max(peak[0] - before, 0))
    if wait is None:
        return
    wait = arm(folder.with_name(f"{folder.name}-again"))
    result.rates.append(rate_until(wait, subject) / alone)


def rate_until(wait: Wait | None, subject: Subject) -> float:
    """Steps per second; while ``wait`` runs in a thread, else for a second."""
    import threading

    thread = None if wait is None else threading.Thread(target=wait)
    if thread is not None:
        thread.start()
    started, num_steps = time.perf_counter(), 0
    while True:
        subject.step()
        num_steps += 1
        seconds = time.perf_counter() - started
        if seconds > 1 if thread is None else not thread.is_alive():
            break
    if thread is not None:
        thread.join()
    return num_steps / seconds


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The highest resident size in a block, sampled every few milliseconds."""
    import threading

    process, peak, is_over = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()
        peak[0] = max(peak[0], process.memory_info().rss)


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """A group of one process, which ``dcp.async_save`` needs."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'group'}", rank=0, world_size=1
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def assert_same_tensors(store: CheckpointStore, subject: Subject) -> None:
    """What was saved is what is there."""
    loaded = store.latest()
    assert loaded is not None
    own = subject.model.state_dict()
    assert all(torch.equal(own[name], loaded.weights[name]) for name in own)
    moments = loaded.state["parts"]["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, subject.optimizer.state_dict()["state"][0]["exp_avg"])


def make_ours(
    subject: Subject, folder: Path
) -> tuple[CheckpointCallback, CheckpointStore, RunState]:
    """Our saver as a run has it, after its first step."""
    store = CheckpointStore(folder, keep_last=1, report=lambda _text: None)
    state = RunState(model=subject.model)
    parts = {"optimizer": subject.optimizer, "state": state}
    config = RunConfig().replace(save_every_steps=10**9, keep_last=1)
    ours = CheckpointCallback.of(config, store, subject.model, parts)
    ours.on_fit_start(state)
    state.step = 1
    ours.on_step_end(state)  # learns the size, allocates in its thread
    ours.finish(state)
    return ours, store, state


def main() -> None:
    """Measure all arms and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=300, help="megabytes of state")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject.of(options.size)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        before = psutil.Process().memory_info().rss
        ours, store, state = make_ours(subject, folder / "ours")
        ours.save(state, waits=True)
        kept = psutil.Process().memory_info().rss - before
        assert_same_tensors(store, subject)
        first = state.checkpoint["stall_seconds"] if state.checkpoint else 0.0
        results = {name: Measured() for name in arms(subject, ours, state)}
        alone = rate_until(None, subject)
        with process_group(folder):
            for number in range(options.repeats + 1):
                for name, arm in arms(subject, ours, state).items():
                    place = folder / f"{name}-{number}"
                    if not name.startswith("dcp"):
                        place.mkdir()  # dcp makes its own
                    warm_up = Measured()
                    result = results[name] if number else warm_up
                    measure(arm, place, subject, alone, result)
                    for left in folder.glob(f"{place.name}*"):
                        shutil.rmtree(left)
        ours.close()
    show(results, subject.num_bytes(), options.repeats)
    print(
        f"nbutils: the first save of the run {first:.3f} s; {kept / 1e6:.0f} MB of "
        "buffers stay between saves, the column shows what comes on top"
    )


def show(results: dict[str, Measured], size: int, repeats: int) -> None:
    """The table."""
    print(
        f"state {size / 1e6:.0f} MB, {repeats} repeats, one thread, torch "
        f"{torch.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores"
    )
    print(
        f"{'':16}{'stall s':>8} {'min':>8} {'max':>8} {'ratio':>8} "
        f"{'written s':>10} {'loop rate':>10} {'extra RSS MB':>12}"
    )
    base = statistics.median(results["torch.save"].stalls)
    for name, measured in results.items():
        print(f"{name:16}{measured.row(base)}")


if __name__ == "__main__":
    main()
