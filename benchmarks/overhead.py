"""What nbutils costs per optimizer step, against hand-written loops.

``benchmarks/loops.py`` holds the loops. Before any clock starts, the final weights of
each arm of ours must equal, to the bit, those of a loop by hand over the same batches
with the same optimizer. Arms take turns on one thread. The time of a step is the slope
between a short and a long run, which cancels set-up and end. CPU time decides, wall
time stands beside it; repetitions with less than 93 % of a core are left out, and
counted. Nothing here asserts a time.

    python benchmarks/overhead.py [--full] [--only steps fixed notebook]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    Figure,
    Pair,
    Repetitions,
    Timing,
    clocked,
    describe_machine,
    write_figures,
)
from benchmarks.loops import ARMS, TWINS, Case, assert_equal_work, ours, workload
from benchmarks.notebook import measure_notebook
from nbutils.monitor.events import read_events

PARTS = ("steps", "fixed", "notebook")
# The most that an arm may take, as a share of raw.
W1_GOALS = {"nbutils, same flags": 1.00, "nbutils": 0.55}
LOOSE_W1_GOALS = {"nbutils, same flags": 1.02, "nbutils": 0.55}
LARGER_GOALS = {"nbutils": 0.97}


def cases(*, is_full: bool) -> list[tuple[Case, dict[str, float]]]:
    """What is measured, and its goals."""
    w1, w2, w3 = map(workload, ("W1", "W2", "W3"))
    if not is_full:
        return [
            (Case(w1, 100, 1300, 7), W1_GOALS),
            (Case(w1, 50, 450, 7, accumulation=4), LOOSE_W1_GOALS),
            (Case(w1, 100, 900, 7, precision="bf16"), LOOSE_W1_GOALS),
            (Case(w2, 3, 13, 5), LARGER_GOALS),
        ]
    return [
        (Case(w1, 200, 4200, 11), W1_GOALS),
        (Case(w1, 100, 1300, 11, accumulation=4), LOOSE_W1_GOALS),
        (Case(w1, 200, 3200, 11, precision="bf16"), LOOSE_W1_GOALS),
        (Case(w2, 5, 45, 7), LARGER_GOALS),
        (Case(w3, 2, 12, 5), LARGER_GOALS),
    ]


def measure(case: Case, folder: Path) -> dict[str, Repetitions]:
    """Seconds per optimizer step of each arm."""
    data = case.data()
    found = {name: Repetitions() for name in ARMS}
    names = list(ARMS)
    for repeat in range(case.repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            short, long = (
                clocked(lambda n=n, arm=ARMS[name]: arm(case, data, n, folder))
                for n in (case.short, case.long)
            )
            found[name].every.append(Pair(short, long, case.long - case.short))
    return found


def report_steps(case: Case, goals: dict[str, float], folder: Path) -> list[Figure]:
    """A row per arm; gives the figures that have goals."""
    assert_equal_work(case, folder)
    found = measure(case, folder)
    print(
        f"\n{case.name}, batch {case.work.batch_size}: {case.repeats} repeats, "
        f"{case.short} and {case.long} steps; equal weights"
    )
    return report(case.name, found, goals)


def report(
    title: str, found: dict[str, Repetitions], goals: dict[str, float]
) -> list[Figure]:
    """Microseconds per step, ratios of the medians, and how they compare with goals."""
    print(
        f"  {'arm':20}{'CPU us':>9}{'least':>9}{'spread':>8}{'wall us':>9}"
        f"{'dropped':>8}{'x raw':>7}{'least':>7}{'x twin':>8}   goal"
    )
    figures = []
    base = found["raw"]
    for name, these in found.items():
        twin = found.get(TWINS.get(name, ""))
        beside = f"{these.cpu / twin.cpu:8.2f}" if twin else " " * 8
        figure = Figure(
            f"{title}: {name}, x raw",
            these.cpu / base.cpu,
            goal=goals.get(name),
            note="busy" if these.is_noisy or base.is_noisy else "",
        )
        _, _, goal, verdict = figure.cells()
        print(
            f"  {name:20}{1e6 * these.cpu:9.1f}{1e6 * these.least:9.1f}"
            f"{100 * these.spread:7.0f}%{1e6 * these.wall:9.1f}"
            f"{these.dropped:>8}{these.cpu / base.cpu:7.2f}"
            f"{these.least / base.least:7.2f}{beside}   {goal} {verdict}".rstrip()
        )
        if figure.goal is not None:
            figures.append(figure)
    return figures


def report_fixed_costs(folder: Path, repeats: int) -> None:
    """What does not grow with the steps: a run, an epoch, a checkpoint."""
    case = Case(workload("W1"), 0, 20, 0)
    data = case.data()  # 21 steps an epoch
    whole, epoch = Repetitions(), Repetitions()
    stalls: list[float] = []
    for _ in range(repeats):
        home = Path(tempfile.mkdtemp(dir=folder))
        one, eleven = (
            clocked(
                lambda n=n, home=home: ours(
                    case, data, 21 * n, home, epochs=n, save_every_epochs=1
                )
            )
            for n in (1, 11)
        )
        whole.every.append(Pair(Timing(0, 0), one))
        epoch.every.append(Pair(one, eleven, 10))
        stalls += stall_seconds(home)
    print("\nFixed costs on W1, milliseconds, medians        CPU     wall")
    for label, found in (
        ("a whole run of one epoch of 21 steps", whole),
        ("one more such epoch and its checkpoint", epoch),
    ):
        print(f"  {label:42} {1e3 * found.cpu:8.1f} {1e3 * found.wall:8.1f}")
    stall = 1e3 * statistics.median(stalls)
    print(f"  {'of which the checkpoint holds the loop up':42} {'':8} {stall:8.1f}")


def stall_seconds(home: Path) -> list[float]:
    """How long each checkpoint of the runs below ``home`` held the loop up."""
    logs = home.rglob("events.jsonl")
    events = [event for path in logs for event in read_events(path)]
    return [event["stall_seconds"] for event in events if event["kind"] == "checkpoint"]


def report_notebook(*, is_full: bool) -> list[Figure]:
    """The loop in a real kernel: what it takes, and what it sends."""
    steps, repeats = ((1000, 9000), 7) if is_full else ((1000, 4000), 3)
    found, sent = measure_notebook(*steps, repeats)
    print(
        f"\nIn a kernel, W1: {repeats} repeats, {steps[0]} and {steps[1]} steps, 1000 "
        "an epoch; ours with panel, log, and a checkpoint an epoch"
    )
    goals = {"nbutils, same flags": 1.00, "nbutils": 0.60}
    figures = report("In a kernel", found, goals)
    for name, traffic in sent.items():
        print(
            f"  {name}: {traffic.num_messages} messages, {traffic.per_second:.1f} "
            f"a second, the largest {traffic.most_bytes / 1e3:.1f} kB"
        )
    ours_sent = sent["nbutils"]
    return [
        *figures,
        Figure("In a kernel: messages a second", ours_sent.per_second, goal=10),
        Figure("In a kernel: largest update", ours_sent.most_bytes / 1e3, "kB", 10),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="more steps and repeats, and W3; minutes"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe_machine()}; one thread")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, goals in cases(is_full=options.full):
            if "steps" in options.only:
                figures += report_steps(case, goals, folder)
        if "fixed" in options.only:
            report_fixed_costs(folder, 9 if options.full else 3)
    if "notebook" in options.only:
        figures += report_notebook(is_full=options.full)
    write_figures(options.figures, figures)


if __name__ == "__main__":
    main()
