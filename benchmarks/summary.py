"""All benchmarks, one after the other, and one table of figures beside their goals.

Each runs in a process of its own. Close other programs first: a busy machine makes
every figure worse, and the table says which of them were disturbed.

    python benchmarks/summary.py [--full] [--save]

``--full`` takes more steps and repeats, a transformer, and a state of 1.2 GB;
``--save`` writes ``benchmarks/results/summary.md``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Figure, child, describe_machine, read_figures

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "summary.md"
COLUMNS = ("measure", "value", "goal", "")


def run(script: str, folder: Path, *arguments: str) -> list[Figure]:
    """Run a benchmark that keeps its figures; its tables pass through."""
    path = folder / f"{script}.json"
    command = [str(HERE / script), *arguments, "--figures", str(path)]
    print(f"\n## {script} {' '.join(arguments)}".rstrip(), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, env=environment)  # noqa: S603
    return read_figures(path)


def run_stall(megabytes: int, repeats: int) -> list[Figure]:
    """How long a save holds the loop up, beside torch's own ways."""
    print(f"\n## checkpoint_stall.py --size {megabytes}", flush=True)
    arguments = ("--size", str(megabytes), "--repeats", str(repeats))
    text = child(str(HERE / "checkpoint_stall.py"), *arguments)
    print(text)
    stalls = stalls_of(text)
    ours = stalls["nbutils"]
    title = f"save of {megabytes} MB, stall"
    return [
        Figure(f"{title}, x torch.save", ours / stalls["torch.save"], goal=0.20),
        Figure(f"{title}, x dcp.async_save", ours / stalls["dcp.async_save"], goal=1),
    ]


def stalls_of(text: str) -> dict[str, float]:
    """The median stall of each arm, out of the printed table.

    Raises:
        ValueError: An arm is missing: the table has another form now.
    """
    rows = [line.split() for line in text.splitlines()]
    names = ("torch.save", "dcp.async_save", "nbutils")
    found = {row[0]: float(row[1]) for row in rows if row and row[0] in names}
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"checkpoint_stall.py printed no row for {missing}")
    return found


def measure(folder: Path, *, is_full: bool) -> list[Figure]:
    """Every figure, in the order of the table."""
    full = ("--full",) if is_full else ()
    return [
        *run("overhead.py", folder, *full),
        *run_stall(*((1200, 5) if is_full else (300, 3))),
        *run("startup.py", folder, "--repeats", "9" if is_full else "3"),
        *run("loader.py", folder, *full),
    ]


def as_text(figures: list[Figure]) -> str:
    """The table, aligned."""
    rows = [COLUMNS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        name, value, goal, verdict = row
        cells = (
            name.ljust(widths[0]),
            value.rjust(widths[1]),
            goal.ljust(widths[2]),
            verdict,
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(figures: list[Figure], machine: str) -> str:
    """The table as a page."""
    rows = [COLUMNS, ("---", "---:", "---", "---"), *(f.cells() for f in figures)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        "# Summary of the benchmarks\n\n"
        "Written by `python benchmarks/summary.py --save`; "
        "[how it is measured](../README.md).\n\n"
        f"{machine}; one thread. Ratios are of CPU time within this run. "
        '"busy": other programs disturbed the figure.\n\n'
        f"{table}\n"
    )


def main() -> None:
    """Measure, print, and save if asked."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--full", action="store_true", help="all of it; half an hour")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    started = time.perf_counter()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), is_full=options.full)
    minutes = (time.perf_counter() - started) / 60
    print(f"\n## Summary\n\n{machine}; one thread; {minutes:.1f} minutes\n")
    print(as_text(figures))
    if options.save:
        RESULT.write_text(as_markdown(figures, machine), encoding="utf-8")
        print(f"\nwritten to {RESULT}")


if __name__ == "__main__":
    main()
