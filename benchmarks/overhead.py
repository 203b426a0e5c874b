"""What nbutils costs per optimizer step, against hand-written loops.

Three arms train the same model on the same data on one thread:

* ``raw``: ``DataLoader(TensorDataset, shuffle)``, default AdamW, ``clip_grad_norm_``;
* ``lean``: the same loop with our loader and fused AdamW;
* ``nbutils``: ``TrainingCoordinator`` out of the box, without preflight and panel.

Weights of ``lean`` and ``nbutils`` must agree first. The time of a step is the slope
between a short and a long run, which cancels set-up and end; arms take turns. CPU time
decides: wall time holds the neighbours too. Nothing here asserts a time.

    python benchmarks/overhead.py [--quick | --full]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
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
from nbutils.monitor.events import read_events

CLIP_NORM, LR, WEIGHT_DECAY = 1.0, 1e-3, 0.01


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
    """A model, its data, and how many steps the short and the long run take."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    batch_size: int
    short: int
    long: int
    repeats: int

    def data(self) -> tuple[Tensor, Tensor]:
        """Enough samples that no run ends an epoch: that is measured apart."""
        torch.manual_seed(0)
        num_samples = self.batch_size * (self.long + 1)
        return self.inputs(num_samples), torch.randint(10, (num_samples,))

    def model(self) -> nn.Module:
        torch.manual_seed(1)
        return self.build()


def workloads(size: str) -> list[Workload]:
    """W1 and W2; W3 with ``--full``."""
    w1 = (100, 1600, 7) if size == "quick" else (200, 4200, 11)
    w2 = (3, 13, 3) if size == "quick" else (5, 45, 7)
    found = [
        Workload("W1 MLP, batch 32", mlp, lambda n: torch.randn(n, 64), 32, *w1),
        Workload(
            "W2 CNN 32x32, batch 64", cnn, lambda n: torch.randn(n, 3, 32, 32), 64, *w2
        ),
    ]
    if size == "full":
        found.append(
            Workload(
                "W3 transformer, batch 16",
                Sequence,
                lambda n: torch.randint(100, (n, 128)),
                16,
                *(2, 12, 5),
            )
        )
    return found


Arm = Callable[[Workload, tuple[Tensor, Tensor], int, Path], nn.Module]


def raw(
    work: Workload, data: tuple[Tensor, Tensor], steps: int, _folder: Path
) -> nn.Module:
    """The loop of a tutorial."""
    model = work.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    loader = DataLoader(TensorDataset(*data), work.batch_size, shuffle=True)
    return _loop(model, optimizer, loader, steps)


def lean(
    work: Workload, data: tuple[Tensor, Tensor], steps: int, _folder: Path
) -> nn.Module:
    """The same loop with our loader's order and a fused optimizer."""
    model = work.model()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True
    )
    config = nb.RunConfig(batch_size=work.batch_size)
    loader = make_loader(nb.Task(model, cross_entropy, data), "train", config)
    return _loop(model, optimizer, loader, steps)


def _loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[Any],
    steps: int,
) -> nn.Module:
    model.train()
    for done, (x, y) in enumerate(loader, 1):
        loss = cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if done == steps:
            break
    return model


def ours(
    work: Workload,
    data: tuple[Tensor, Tensor],
    steps: int,
    folder: Path,
    **more: Any,
) -> nn.Module:
    """``TrainingCoordinator`` with its defaults: guards, event log, checkpoint."""
    task = nb.Task(work.model(), cross_entropy, data)
    nb.TrainingCoordinator(
        task,
        run_dir=Path(tempfile.mkdtemp(dir=folder)) / "run",
        batch_size=work.batch_size,
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP_NORM,
        max_steps=steps,
        device="cpu",
        preflight="skip",
        panel="off",
        **more,
    ).train()
    return task.model


ARMS: dict[str, Arm] = {"raw": raw, "lean": lean, "nbutils": ours}


def assert_equal_work(work: Workload, folder: Path) -> None:
    """The weights after a short run: ours against the raw loop in the same order."""
    data = work.data()
    norms = [
        sum(float(p.detach().double().square().sum()) for p in model.parameters())
        for model in (arm(work, data, work.short, folder) for arm in (lean, ours))
    ]
    lean_norm, our_norm = (norm**0.5 for norm in norms)
    assert round(lean_norm, 5) == round(our_norm, 5), (work.name, lean_norm, our_norm)


def clocked(run: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def slopes(work: Workload, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """CPU and wall seconds per step of each arm, one pair per repeat."""
    data = work.data()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    names = list(ARMS)
    for repeat in range(work.repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            pairs = [
                clocked(lambda n=n, arm=ARMS[name]: arm(work, data, n, folder))
                for n in (work.short, work.long)
            ]
            (cpu, wall), (long_cpu, long_wall) = pairs
            steps = work.long - work.short
            found[name].append(((long_cpu - cpu) / steps, (long_wall - wall) / steps))
    return found


def report_steps(work: Workload, folder: Path) -> None:
    """A row per arm: microseconds per step and ratios of the medians."""
    assert_equal_work(work, folder)
    found = slopes(work, folder)
    cpu = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    wall = {name: [pair[1] for pair in pairs] for name, pairs in found.items()}
    print(f"\n{work.name}: {work.repeats} repeats, {work.short} and {work.long} steps")
    print(
        f"  {'arm':8} {'CPU us/step':>12} {'min':>9} {'wall us':>9} "
        f"{'x raw':>7} {'x lean':>7}   (ratios: median CPU, least CPU)"
    )
    for name in ARMS:
        median = statistics.median(cpu[name])
        ratios = [
            f"{median / statistics.median(cpu[base]):7.2f}" for base in ("raw", "lean")
        ]
        least = [f"{min(cpu[name]) / min(cpu[base]):.2f}" for base in ("raw", "lean")]
        print(
            f"  {name:8} {1e6 * median:12.1f} {1e6 * min(cpu[name]):9.1f} "
            f"{1e6 * statistics.median(wall[name]):9.1f} {' '.join(ratios)}   "
            f"{' '.join(least)}"
        )


def report_fixed_costs(folder: Path, repeats: int) -> None:
    """What does not grow with the steps: a run, an epoch, a checkpoint."""
    work = Workload("", mlp, lambda n: torch.randn(n, 64), 32, 0, 20, 0)
    data = work.data()  # 21 steps an epoch
    whole: list[tuple[float, float]] = []
    epoch: list[tuple[float, float]] = []
    stalls: list[float] = []
    for _ in range(repeats):
        home = Path(tempfile.mkdtemp(dir=folder))
        one, eleven = (
            clocked(lambda n=n, home=home: ours(work, data, 21 * n, home, epochs=n))
            for n in (1, 11)
        )
        whole.append(one)
        epoch.append(((eleven[0] - one[0]) / 10, (eleven[1] - one[1]) / 10))
        stalls += checkpoint_seconds(home)
    print("\nFixed costs on W1, milliseconds, medians        CPU     wall")
    for label, pairs in (
        ("a whole run of one epoch of 21 steps", whole),
        ("one more such epoch and its checkpoint", epoch),
    ):
        cpu, wall = (1e3 * statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        print(f"  {label:42} {cpu:8.1f} {wall:8.1f}")
    stall = 1e3 * statistics.median(stalls)
    print(f"  {'of which the stall of the checkpoint':42} {'':8} {stall:8.1f}")


def checkpoint_seconds(home: Path) -> list[float]:
    """How long each checkpoint of the runs below ``home`` held the loop."""
    logs = home.rglob("events.jsonl")
    events = [event for path in logs for event in read_events(path)]
    return [event["seconds"] for event in events if event["kind"] == "checkpoint"]


IMPORT = """
import sys, time
started = time.perf_counter()
import nbutils
print(1e3 * (time.perf_counter() - started), "torch" in sys.modules)
"""


def report_start(repeats: int) -> None:
    """Import time, and the time from an empty process to the first step."""
    lines = [_child("-c", IMPORT).split() for _ in range(5)]
    least = min(float(line[0]) for line in lines)
    is_loaded = "loaded" if lines[0][1] == "True" else "not loaded"
    print(f"\nimport nbutils: {least:.0f} ms, torch is {is_loaded}")
    first: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(repeats):
        for name, seconds in first.items():
            started = time.time()
            seconds.append(float(_child(__file__, "--first-step", name)) - started)
    print("start of the process to the end of the first step, seconds, least:")
    for name, seconds in first.items():
        extra = min(seconds) - min(first["raw"])
        print(f"  {name:8} {min(seconds):6.2f}  raw {extra:+.2f}")


def _child(*arguments: str) -> str:
    """What a Python process of its own prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


class Clock(nb.Callback):
    """Prints the time of day after the first step."""

    def on_step_end(self, state: Any) -> None:
        """Print it, once."""
        if state.step == 1:
            print(time.time())


def first_step(name: str) -> None:
    """One step of W1 in this process; prints the time of day after it."""
    work = workloads("quick")[0]
    data = work.data()
    with tempfile.TemporaryDirectory() as folder:
        if name == "nbutils":
            ours(work, data, 1, Path(folder), callbacks=[Clock()])
        else:
            ARMS[name](work, data, 1, Path(folder))
            print(time.time())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--quick",
        dest="size",
        action="store_const",
        const="quick",
        help="W1 and W2 in about half a minute (the default)",
    )
    parser.add_argument(
        "--full",
        dest="size",
        action="store_const",
        const="full",
        help="more steps and repeats, and W3; minutes",
    )
    parser.add_argument("--first-step", choices=list(ARMS), help=argparse.SUPPRESS)
    parser.set_defaults(size="quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.first_step:
        first_step(options.first_step)
        return
    print(
        f"nbutils {nb.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, one thread"
    )
    is_quick = options.size == "quick"
    with tempfile.TemporaryDirectory() as folder:
        for work in workloads(options.size):
            report_steps(work, Path(folder))
        report_fixed_costs(Path(folder), 3 if is_quick else 9)
    report_start(2 if is_quick else 5)


if __name__ == "__main__":
    main()
