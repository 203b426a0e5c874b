"""The memory plan of preflight against the memory that training really takes.

Each case is a process of its own, on one thread: it warms up with small steps, returns
free memory to the system, notes what is resident, then builds the model anew and takes
real steps as the engine would (fused AdamW, clipping). The estimate is what
``nb.preflight(task, depth="static")`` plans, which runs nothing. It counts tensors;
what a kernel needs beside them, and gaps of the allocator, are the error.

    python benchmarks/memory_plan.py [--only resnet18 lstm] [--steps 3]

On CUDA the peak of the allocator is read instead (``--device cuda``).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

MIB = 2**20
CLEAR_PEAK = "5"  # what /proc/self/clear_refs takes to start a new peak
# Freed blocks go back to the system at once, so that gaps are not counted.
TRIMMED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def _classes(count: int, classes: int = 10) -> Any:
    import torch

    return torch.arange(count) % classes


def _timm(name: str, count: int) -> tuple[Any, ...]:
    import timm
    import torch

    model = timm.create_model(name, num_classes=10)
    return model, torch.randn(count, 3, 224, 224), _classes(count)


def _mlp(count: int) -> tuple[Any, ...]:
    import torch
    from torch import nn

    model = nn.Sequential(
        nn.Linear(784, 2048),
        nn.ReLU(),
        nn.Linear(2048, 2048),
        nn.GELU(),
        nn.Linear(2048, 10),
    )
    return model, torch.randn(count, 784), _classes(count)


def _lstm(count: int, width: int = 512, num_layers: int = 2) -> tuple[Any, ...]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(64, width, num_layers, batch_first=True)
            self.head = nn.Linear(width, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.cell(x)[0][:, -1])

    return Net(), torch.randn(count, 100, 64), _classes(count)


def _gru(count: int) -> tuple[Any, ...]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(64, 256, batch_first=True)
            self.head = nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.cell(x)[0][:, -1])

    return Net(), torch.randn(count, 100, 64), _classes(count)


def _gpt(count: int) -> tuple[Any, ...]:
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
            self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = (
                nn.Linear(width, 4 * width),
                nn.Linear(4 * width, width),
            )

        def forward(self, x: Any) -> Any:
            rows, size, width = x.shape
            parts = self.mix(self.before(x)).chunk(3, -1)
            q, k, v = (
                p.view(rows, size, self.heads, -1).transpose(1, 2) for p in parts
            )
            y = scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(rows, size, width))
            return x + self.down(nn.functional.gelu(self.up(self.after(x))))

    class Gpt(nn.Module):
        def __init__(self, tokens: int = 8000, width: int = 256) -> None:
            super().__init__()
            self.embed, self.place = (
                nn.Embedding(tokens, width),
                nn.Embedding(256, width),
            )
            self.blocks = nn.ModuleList(Block(width, 8) for _ in range(6))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, tokens, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Any) -> Any:
            x = self.embed(ids) + self.place.weight[: ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)).transpose(1, 2)

    ids = torch.randint(8000, (count, 257))
    return Gpt(), ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _graph(kind: str, count: int) -> tuple[Any, ...]:
    """``count`` copies of one random graph of 200 nodes and 2000 edges."""
    import torch
    import torch_geometric.nn as pyg
    from torch import nn

    edges = torch.randint(200, (2, 2000))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            make: Any = getattr(pyg, kind)
            more = {"heads": 4, "concat": False} if kind == "GATv2Conv" else {}
            self.first, self.second = make(64, 128, **more), make(128, 128, **more)
            self.head = nn.Linear(128, 10)
            self.register_buffer("edges", edges)

        def forward(self, x: Any) -> Any:
            rows, nodes, width = x.shape
            shift = nodes * torch.arange(rows, device=x.device)
            index = (self.edges[:, None] + shift[:, None]).flatten(1)
            flat = x.reshape(rows * nodes, width)
            flat = self.second(self.first(flat, index).relu(), index).relu()
            return self.head(flat.view(rows, nodes, -1).mean(1))

    return Net(), torch.randn(count, 200, 64), _classes(count)


CASES: dict[str, tuple[Callable[[int], tuple[Any, ...]], int, dict[str, Any]]] = {
    "mlp": (_mlp, 512, {}),
    "resnet18": (lambda n: _timm("resnet18", n), 16, {}),
    "vit_tiny": (lambda n: _timm("vit_tiny_patch16_224", n), 16, {}),
    "vit_small": (lambda n: _timm("vit_small_patch16_224", n), 8, {}),
    "vit_small bf16": (
        lambda n: _timm("vit_small_patch16_224", n),
        16,
        {"precision": "bf16"},
    ),
    "vit_small recomputed": (
        lambda n: _timm("vit_small_patch16_224", n),
        16,
        {"gradient_checkpointing": True},
    ),
    "convnext_atto": (lambda n: _timm("convnext_atto", n), 16, {}),
    "gpt": (_gpt, 4, {}),
    "gpt sgd": (_gpt, 4, {"optimizer": "sgd"}),
    "lstm": (_lstm, 32, {}),
    "lstm wide batch": (lambda n: _lstm(n, 200, 1), 192, {}),
    "lstm deep": (lambda n: _lstm(n, 256, 3), 64, {}),
    "gru": (_gru, 256, {}),
    "gcn": (lambda n: _graph("GCNConv", n), 64, {}),
    "gatv2": (lambda n: _graph("GATv2Conv", n), 16, {}),
}


def _task(name: str, count: int | None = None) -> tuple[Any, dict[str, Any]]:
    from torch import nn

    import nbutils as nb

    make, size, settings = CASES[name]
    model, x, y = make(count or size)
    task = nb.Task(model, nn.CrossEntropyLoss(), (x, y))
    return task, {"batch_size": count or size, "panel": "off", **settings}


def estimate(name: str, device: str) -> tuple[float, float]:
    """Planned MiB, and the seconds that planning took."""
    import nbutils as nb

    task, settings = _task(name)
    start = time.perf_counter()
    report = nb.preflight(
        task, depth="static", on_failure="return", device=device, **settings
    )
    seconds = time.perf_counter() - start
    finding = next(f for f in report.findings if f.id == "S8")
    found = dict(finding.details)
    if "plan as JSON" not in found:
        raise SystemExit(f"{name}: no plan. {finding.severity}: {finding.actual}")
    return json.loads(found["plan as JSON"])["device"]["total"] / MIB, seconds


def measure(name: str, device: str, num_steps: int) -> float:
    """MiB that training took at its peak, beyond what was there before the model."""
    _train(name, device, 2, count=2)  # loads kernels, and keeps their scratch memory
    _give_back()
    before = _resident("VmRSS")
    _train(name, device, num_steps)
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / MIB
    return _resident("VmHWM") - before


def _train(name: str, device: str, num_steps: int, count: int | None = None) -> None:
    import torch

    import nbutils as nb
    from nbutils.train.activations import set_checkpointing
    from nbutils.train.optim import build_optimizer
    from nbutils.train.precision import Precision

    task, settings = _task(name, count)
    config = nb.RunConfig(**settings)
    place = torch.device(device)
    model = task.model.to(place).train()
    batch = [column.to(place) for column in task.train_data.tensors]
    if count is None:
        _new_peak(device)
    set_checkpointing(model, config.model)
    optimizer = build_optimizer(model, config, task)
    precision = Precision.of(config, place)
    for _ in range(num_steps):
        with precision.autocast():
            outputs = task.forward(model, batch)
        loss = task.loss(outputs.float(), batch[1])
        loss.backward()
        del outputs, loss
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _give_back() -> None:
    """Free memory goes back to the system, so that only what lives is resident."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _new_peak(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)


def _resident(field: str) -> float:
    """A field of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"this system does not tell {field}; Linux does.")


def _child(*arguments: str) -> list[float]:
    """What a process of its own prints last, as numbers."""
    command = [sys.executable, __file__, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **TRIMMED}
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        import torch

        torch.set_num_threads(1)
        name = options.only[0]
        if options.arm == "estimate":
            print(*estimate(name, options.device))
        else:
            print(measure(name, options.device, options.steps))
        return
    print(f"torch {version('torch')}, Python {platform.python_version()}, one thread")
    print(
        f"{'case':22}{'batch':>6}{'plan MiB':>10}{'real MiB':>10}{'error':>8}{'s':>6}"
    )
    errors = []
    for name in options.only:
        common = ["--only", name, "--device", options.device]
        plan, seconds = _child(*common, "--arm", "estimate")
        steps = ["--steps", str(options.steps)]
        real = _child(*common, *steps, "--arm", "measure")[0]
        errors.append(plan / real - 1)
        size = CASES[name][1]
        row = (
            f"{name:22}{size:6}{plan:10.0f}{real:10.0f}{errors[-1]:+8.1%}{seconds:6.1f}"
        )
        print(row, flush=True)
    worst = max(errors, key=abs)
    print(f"largest error {worst:+.1%}; mean {sum(map(abs, errors)) / len(errors):.1%}")


if __name__ == "__main__":
    main()
