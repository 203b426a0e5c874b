"""What it costs to start: import, empty process to first step, peak memory.

Each measurement is a process of its own; arms take turns. ``raw`` is a hand-written
loop with a ``DataLoader`` and fused AdamW, ``nbutils`` a ``TrainingCoordinator`` out of
the box, without preflight and panel. Both take a first step of the same small MLP.

    python benchmarks/startup.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Figure, child, describe_machine, write_figures

IMPORT = """
import sys, time
started = time.perf_counter()
import nbutils
print(1e3 * (time.perf_counter() - started), "torch" in sys.modules)
"""


def raw() -> None:
    """The first step of a hand-written loop."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    model, x, y = _workload()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for inputs, targets in DataLoader(TensorDataset(x, y), 32, shuffle=True):
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    _say()


def ours() -> None:
    """The first step of a coordinator."""
    import torch
    from torch.nn.functional import cross_entropy

    import nbutils as nb

    class Clock(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            _say()

    torch.set_num_threads(1)
    model, x, y = _workload()
    with tempfile.TemporaryDirectory() as folder:
        nb.TrainingCoordinator(
            nb.Task(model, cross_entropy, (x, y)),
            run_dir=Path(folder) / "run",
            callbacks=[Clock()],
            epochs=1,
            device="cpu",
            preflight="skip",
            panel="off",
        ).train()


def _workload() -> tuple[Any, Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return model, torch.randn(32, 64), torch.randint(10, (32,))


def _say() -> None:
    """Time of day, CPU seconds and peak memory in MB, at the end of the step."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        time.time(),
        time.process_time(),
        peak / (1024 if sys.platform != "darwin" else 1024**2),
    )


ARMS = {"raw": raw, "nbutils": ours}


def report_import(repeats: int) -> list[Figure]:
    """Milliseconds of ``import nbutils``, and whether it loads torch."""
    lines = [child("-c", IMPORT).split() for _ in range(repeats + 1)][1:]
    times = [float(line[0]) for line in lines]
    torch_is = "loaded" if lines[0][1] == "True" else "not loaded"
    print(
        f"\nimport nbutils: {statistics.median(times):.0f} ms, least {min(times):.0f}; "
        f"torch is {torch_is}"
    )
    return [
        Figure("import nbutils", statistics.median(times), "ms", 60),
        Figure("import nbutils: loads torch", float(lines[0][1] == "True"), goal=0),
    ]


def report_first_step(repeats: int) -> list[Figure]:
    """From an empty process to the end of the first step: seconds and memory."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in ARMS}
    for _ in range(repeats):
        for name, rows in found.items():
            started = time.time()
            ended, cpu, peak = map(float, child(__file__, "--arm", name).split())
            rows.append((ended - started, cpu, peak))
    columns = ("wall s", "CPU s", "peak MB")
    print("\nto the end of the first step: median, least, least beyond raw")
    print(f"  {'arm':8}" + "".join(f"{column:>28}" for column in columns))
    for name, rows in found.items():
        cells = ""
        for number, digits in enumerate((2, 2, 0)):
            values, base = ([r[number] for r in x] for x in (rows, found["raw"]))
            least, extra = min(values), min(values) - min(base)
            cells += f"{statistics.median(values):14.{digits}f} {least:6.{digits}f}"
            cells += f" {extra:+6.{digits}f}"
        print(f"  {name:8}{cells}")

    def beyond(column: int) -> float:
        ours, base = ([row[column] for row in found[n]] for n in ("nbutils", "raw"))
        return statistics.median(ours) - statistics.median(base)

    return [
        Figure("first step, CPU beyond raw", beyond(1), "s", 0.2),
        Figure("first step, peak memory beyond raw", beyond(2), "MB", 15),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        ARMS[options.arm]()
        return
    print(f"{describe_machine()}; one thread")
    figures = report_import(options.repeats) + report_first_step(options.repeats)
    write_figures(options.figures, figures)


if __name__ == "__main__":
    main()
