"""What the engine does on a CUDA device; each section runs by itself.

    python benchmarks/gpu.py [--sections syncs overflow ...] [--name h100]
    python benchmarks/gpu.py --dry-run     # the same paths on a CPU, tiny, no figures

Sections: ``syncs`` (host waits per step), ``overflow`` (fp16), ``speed`` (beside a raw
loop), ``optimizers`` (bytes of state), ``oom`` (under a memory cap), ``recompute``
(gradient checkpointing), ``saving`` (how long a save holds the loop up). The table is
printed and written to ``benchmarks/results/gpu-<name>.md``. A section that fails is
told in the table, and the others go on; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import describe_machine
from torch import Tensor, nn

import nbutils as nb
from nbutils.train import precision as precision_module
from nbutils.train.activations import set_checkpointing
from nbutils.train.optim import build_optimizer, explain_optimizer
from nbutils.train.precision import Precision

RESULTS = Path(__file__).parent / "results"
QUIET = {
    "preflight": "skip",
    "panel": "off",
    "tracker": "none",
    "save_every_epochs": None,
    "watchdogs": "off",
    "max_save_fraction": 1e-6,  # none but the last one
}
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel")


@dataclass(frozen=True)
class Place:
    """Where and how large: a GPU, or the CPU for a dry run."""

    device: torch.device

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def size(self, full: int, tiny: int) -> int:
        return full if self.is_cuda else tiny

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def clear(self) -> None:
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.is_cuda else 0


Row = tuple[str, str, str]  # what, figure, goal or remark


# ------------------------------------------------------------------ subjects


class Block(nn.Module):
    """A transformer's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, 8, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Classifies sequences of vectors."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def make_convnet(width: int, depth: int) -> nn.Module:
    """Convolutions with BatchNorm: many small kernels and buffers."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10)
    )


def sequences(count: int, length: int, width: int) -> tuple[Tensor, Tensor]:
    """Noise and labels."""
    torch.manual_seed(0)
    return torch.randn(count, length, width), torch.randint(10, (count,))


def images(count: int, side: int) -> tuple[Tensor, Tensor]:
    """The same as pictures."""
    torch.manual_seed(0)
    return torch.randn(count, 3, side, side), torch.randint(10, (count,))


def small_task(place: Place, steps: int, kind: str) -> nb.Task:
    """A task of ``steps`` batches of 32."""
    count = 32 * steps
    torch.manual_seed(0)
    if kind == "convnet":
        model, data = make_convnet(place.size(64, 4), 8), images(count, 16)
        with torch.no_grad():
            model(data[0][:2])
    else:
        width = place.size(256, 16)
        model, data = Transformer(width, 4), sequences(count, 16, width)
    return nb.Task(model, nn.CrossEntropyLoss(), data)


class Between(nb.Callback):
    """Calls ``enter`` after one step and ``leave`` after another."""

    def __init__(
        self, first: int, last: int, enter: Callable[[], Any], leave: Callable[[], Any]
    ) -> None:
        self._calls = {first: enter, last: leave}

    def on_step_end(self, state: Any) -> None:
        if state.step in self._calls:
            self._calls[state.step]()


def train(place: Place, task: nb.Task, *watchers: nb.Callback, **more: Any) -> Any:
    """A whole run in a folder that is gone afterwards; gives result and events."""
    with tempfile.TemporaryDirectory(prefix="nbutils-gpu-") as folder:
        settings = {**QUIET, "epochs": 1, "batch_size": 32, "lr": 1e-4, **more}
        run = nb.TrainingCoordinator(
            task,
            run_dir=Path(folder) / "run",
            runs_dir=folder,
            device=str(place.device),
            callbacks=watchers,
            **settings,
        )
        result = run.train()
        lines = (Path(result.run_dir) / "events.jsonl").read_text().splitlines()
        return result, [json.loads(line) for line in lines]


# ------------------------------------------------------------------ sections


class WaitCount:
    """Waits that torch reports between two steps, each told as a warning."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._caught: Any = None
        self._list: list[Any] = []

    def start(self) -> None:
        self._caught = warnings.catch_warnings(record=True)
        self._list = self._caught.__enter__()
        warnings.simplefilter("always")
        if self._place.is_cuda:
            torch.cuda.set_sync_debug_mode("warn")

    def stop(self) -> None:
        if self._place.is_cuda:
            torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(None, None, None)

    def places(self) -> list[str]:
        found = [w for w in self._list if "synchronizing" in str(w.message)]
        return [f"{Path(w.filename).name}:{w.lineno}" for w in found]


def profiled(place: Place, task: nb.Task, first: int, last: int, **more: Any) -> Any:
    """Number of calls by name, between two steps of a run."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if place.is_cuda else []
    profile = torch.profiler.profile(activities=kinds)
    train(place, task, Between(first, last, profile.start, profile.stop), **more)
    return {event.key: event.count for event in profile.key_averages()}


def syncs(place: Place) -> Iterator[Row]:
    """Six hundred steps of runs of several kinds; the goal is no wait at all."""
    first, last, steps = 20, place.size(620, 30), place.size(640, 40)
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("fp32", "transformer", {"precision": "fp32"}),
        ("bf16, EMA", "transformer", {"precision": "bf16", "ema_decay": 0.99}),
        ("fp16", "transformer", {"precision": "fp16"}),
        ("fp16, BatchNorm, EMA", "convnet", {"precision": "fp16", "ema_decay": 0.99}),
        ("bf16, clip_value", "convnet", {"precision": "bf16", "clip_value": 0.1}),
        ("SGD", "convnet", {"optimizer": "sgd", "momentum": 0.9}),
        ("accumulation 2", "transformer", {"accumulation": 2}),
        ("watchdogs on", "transformer", {"precision": "fp16", "watchdogs": "warn"}),
    ]
    for name, kind, more in cases:
        num_batches = steps * more.get("accumulation", 1)
        count = WaitCount(place)
        watcher = Between(first, last, count.start, count.stop)
        train(place, small_task(place, num_batches, kind), watcher, **more)
        found = count.places()
        where = f" at {', '.join(sorted(set(found))[:4])}" if found else ""
        figure = f"{len(found)} in {last - first} steps{where}"
        yield f"host waits that torch reports: {name}", figure, "0"
    calls = profiled(place, small_task(place, 60, "convnet"), 20, 40, precision="fp16")
    waits = {name: calls.get(name, 0) for name in WAITS}
    yield "waits in the profiler, fp16 convnet, 20 steps", str(waits), "0"
    launches = sum(calls.get(name, 0) for name in LAUNCHES) / 20
    raw = raw_launches(place) / 20
    yield (
        "kernels launched a step, beside a raw loop",
        f"{launches:.0f} / {raw:.0f}",
        "",
    )


def raw_launches(place: Place) -> int:
    """The same for a hand-written loop with a GradScaler."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if place.is_cuda else []
    step = raw_step(place, small_task(place, 2, "convnet"), "fp16")
    for _ in range(5):
        step()
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(20):
            step()
        place.wait()
    found = {event.key: event.count for event in profile.key_averages()}
    return sum(found.get(name, 0) for name in LAUNCHES)


def overflow(place: Place) -> Iterator[Row]:
    """A loss scale far too high: updates are refused until it fits."""
    seen: list[Any] = []

    class Watch(nb.Callback):
        def on_fit_start(self, state: Any) -> None:
            self.before = _weights(state.model)

        def on_step_end(self, state: Any) -> None:
            moved = [
                not torch.equal(self.before[name], value)
                for name, value in _weights(state.model).items()
            ]
            seen.append((any(moved), state.lr))

    initial = precision_module.INITIAL_SCALE
    precision_module.INITIAL_SCALE = 2.0**100
    try:
        task = small_task(place, place.size(200, 100), "transformer")
        more = {"precision": "fp16", "schedule": "linear", "lr": 1e-3}
        result, events = train(place, task, Watch(), **more)
    finally:
        precision_module.INITIAL_SCALE = initial
    refused = [event for event in events if event["kind"] == "refused"]
    first_move = next((i for i, (moved, _) in enumerate(seen) if moved), len(seen))
    scales = [event["settling_scale"] for event in refused]
    told = "each half of the one before" if _halves(scales) else f"{scales[:5]} ..."
    yield "refused updates until the scale fits", str(result.skipped), "> 0"
    yield "steps before the weights first moved", str(first_move), "as many"
    yield "loss scale at the refusals", told, "halves"
    rates = len({lr for _, lr in seen})
    applied = result.steps - result.skipped
    yield "different learning rates / applied updates", f"{rates} / {applied}", "equal"
    finite = all(t.isfinite().all() for t in task.model.state_dict().values())
    yield "weights finite at the end", str(bool(finite)), "True"


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _halves(scales: list[float]) -> bool:
    """Whether each known scale is half of one before, or the same where read late."""
    return bool(scales) and all(b in (a, a / 2) for a, b in pairwise(scales))


def raw_step(place: Place, task: nb.Task, kind: str) -> Callable[[], None]:
    """A hand-written step: autocast, GradScaler, clipping, fused AdamW."""
    model = task.model.to(place.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind)
    scaler = torch.amp.GradScaler(place.device.type, enabled=kind == "fp16")
    x, y = (t[:32].to(place.device) for t in task.train_data.tensors)
    loss_fn = nn.CrossEntropyLoss()

    def step() -> None:
        with torch.autocast(place.device.type, dtype, enabled=dtype is not None):
            loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def speed(place: Place) -> Iterator[Row]:
    """Milliseconds a step beside a raw loop whose batch lies on the device already."""
    first, last = 20, place.size(220, 30)
    for model in ("transformer", "convnet"):
        for kind in ("fp32", "bf16", "fp16"):
            clock = _Clock(place)
            watcher = Between(first, last, clock.start, clock.stop)
            task = small_task(place, last + 5, model)
            train(place, task, watcher, precision=kind)
            ours = clock.seconds / (last - first)
            step = raw_step(place, small_task(place, 2, model), kind)
            for _ in range(first):
                step()
            clock.start()
            for _ in range(last - first):
                step()
            clock.stop()
            raw = clock.seconds / (last - first)
            figure = f"{ours * 1e3:.3f} / {raw * 1e3:.3f} ms, ratio {ours / raw:.2f}"
            yield f"step of a small {model}, {kind}: ours / raw", figure, ""


class _Clock:
    """Seconds on the wall, the device's work included."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.seconds = 0.0

    def start(self) -> None:
        self._place.wait()
        self._began = time.perf_counter()

    def stop(self) -> None:
        self._place.wait()
        self.seconds = time.perf_counter() - self._began


def optimizers(place: Place) -> Iterator[Row]:
    """Bytes of state per parameter after one step."""
    for name in ("adamw", "adamw8bit", "paged_adamw8bit", "sgd"):
        width = place.size(4096, 128)
        model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        model.to(place.device)
        task = nb.Task(model, nn.CrossEntropyLoss(), [0])
        config = nb.RunConfig(optimizer=name)
        choice = explain_optimizer(model, config, task)
        optimizer = build_optimizer(model, config, task)
        model(torch.ones(2, width, device=place.device)).sum().backward()
        optimizer.step()
        held = [t for s in optimizer.state.values() for t in s.values()]
        total = sum(t.nbytes for t in held if isinstance(t, Tensor))
        each = total / sum(p.numel() for p in model.parameters())
        remark = choice.reason if choice.is_other else ""
        yield f"state of {name}, bytes per parameter", f"{each:.2f}", remark
        del optimizer, model, task
        place.clear()


def oom(place: Place) -> Iterator[Row]:
    """The same run with and without a cap that a whole batch does not fit under."""
    width, length = place.size(512, 16), place.size(128, 8)
    data = sequences(6 * 64, length, width)

    def run() -> tuple[dict[str, Tensor], list[Any], int]:
        place.clear()
        torch.manual_seed(0)
        task = nb.Task(Transformer(width, 4), nn.CrossEntropyLoss(), data)
        _, events = train(place, task, batch_size=64, precision="fp32", lr=1e-5)
        found = {n: t.cpu() for n, t in task.model.state_dict().items()}
        return found, events, place.peak()

    free, _, peak = run()
    yield "peak of a whole batch, MiB", f"{peak / 2**20:.0f}", ""
    if not place.is_cuda:
        return
    place.clear()
    total = torch.cuda.get_device_properties(place.device).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5 * peak / total)
    try:
        capped, events, capped_peak = run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    splits = [event["micro_batch"] for event in events if event["kind"] == "oom"]
    yield "cap, MiB", f"{0.5 * peak / 2**20:.0f}", ""
    yield "peak under the cap, MiB", f"{capped_peak / 2**20:.0f}", "below the cap"
    yield "micro-batches that were tried", str(splits), "at least one"
    worst = max(float((free[n] - capped[n]).abs().max()) for n in free)
    yield "largest difference of the final weights", f"{worst:.1e}", "about 1e-6"


def recompute(place: Place) -> Iterator[Row]:
    """Peak memory and time of a forward and backward pass, with and without."""
    width, depth = place.size(768, 16), place.size(16, 4)
    x = sequences(place.size(16, 2), place.size(512, 8), width)[0]
    for is_on in (False, True):
        place.clear()
        torch.manual_seed(0)
        model = Transformer(width, depth).to(place.device)
        set_checkpointing(model, nb.RunConfig(gradient_checkpointing=is_on).model)
        precision = Precision("bf16", place.device)
        moved, clock = x.to(place.device), _Clock(place)
        before = torch.cuda.memory_allocated() if place.is_cuda else 0
        for _ in range(3):
            clock.start()
            with precision.autocast():
                outputs = model(moved)
            precision.backward(outputs.float().square().mean())
            clock.stop()
            model.zero_grad(set_to_none=True)
        used = (place.peak() - before) / 2**20
        name = "with" if is_on else "without"
        figure = f"{used:.0f} MiB, {clock.seconds * 1e3:.1f} ms"
        yield f"{name} gradient checkpointing: memory of a pass, time", figure, ""
        del model, outputs


def saving(place: Place) -> Iterator[Row]:
    """How long saves of model and moments hold the loop up, beside ``torch.save``."""
    width = place.size(4096, 64)
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(6)])
    data = (torch.randn(40 * 32, width), torch.zeros(40 * 32, dtype=torch.int64))
    task = nb.Task(model, nn.CrossEntropyLoss(), data)
    _, events = train(place, task, save_every_steps=10, keep_last=1)
    saves = [event for event in events if event["kind"] == "checkpoint"]
    yield "state, GB", f"{saves[0]['bytes'] / 1e9:.2f}", ""
    stalls = ", ".join(f"{event['stall_seconds']:.3f}" for event in saves)
    yield (
        "loop stalled at each save, s",
        stalls,
        "<= 20 % of torch.save from the 2nd on",
    )
    writes = ", ".join(f"{event['seconds']:.2f}" for event in saves)
    yield "until published, s", writes, ""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(data[0][:2].to(place.device)).sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory(prefix="nbutils-gpu-") as folder:
        clock = _Clock(place)
        for _ in range(2):
            clock.start()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, Path(folder) / "state.pt")
            clock.stop()
    yield "torch.save of the same, s", f"{clock.seconds:.3f}", ""


SECTIONS = {
    section.__name__: section
    for section in (syncs, overflow, speed, optimizers, oom, recompute, saving)
}


# ------------------------------------------------------------------ the table


@contextmanager
def told(name: str, failures: list[str]) -> Iterator[None]:
    """Print the traceback of a section that fails, and go on."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        failures.append(f"{name} failed: {type(error).__name__}: {error}")


def measure(place: Place, names: list[str]) -> tuple[list[str], list[str]]:
    """Lines of the table, and what failed."""
    lines = ["| section | what | measured | goal |", "| --- | --- | --- | --- |"]
    failures: list[str] = []
    print("\n".join(lines))
    for name in names:
        place.clear()
        with told(name, failures):
            for what, figure, goal in SECTIONS[name](place):
                lines.append(f"| {name} | {what} | {figure} | {goal} |")
                print(lines[-1], flush=True)
    return lines, failures


def main() -> int:
    """Measure, print, write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--name", help="of the file; by default the GPU's")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, no figures")
    options = parser.parse_args()
    if options.dry_run:
        return 1 if measure(Place(torch.device("cpu")), options.sections)[1] else 0
    if not torch.cuda.is_available():
        print("There is no CUDA device that torch can use; nothing was measured.")
        return 2
    gpu = torch.cuda.get_device_name()
    place = Place(torch.device("cuda", torch.cuda.current_device()))
    lines, failures = measure(place, options.sections)
    slug = re.sub(r"[^a-z0-9]+", "-", (options.name or gpu).lower()).strip("-")
    path = RESULTS / f"gpu-{slug}.md"
    facts = f"{gpu}, CUDA {torch.version.cuda}, {describe_machine()}"
    failed = [f"- {text}" for text in failures]
    head = [f"# {gpu}", "", f"Written by `python benchmarks/gpu.py`. {facts}.", ""]
    path.write_text("\n".join([*head, *lines, "", *failed]).rstrip() + "\n")
    print(f"\nwritten to {path}", *failed, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
