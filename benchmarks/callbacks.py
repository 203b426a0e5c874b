"""What the default callbacks cost per optimizer step.

One run, in which all default watchers (gradients, learning rates, throughput, loss
scale, examples, device and host) are switched on and off in turns, a block of steps
each: whatever else the machine does, and wherever memory lies, falls on both. Before
that is believed, a run without any watcher must end in the same weights to the bit, and
in the same losses. CPU time of the thread that trains decides; pairs of blocks in which
one was disturbed (a fifth above its median) are left out. A busy machine hides one
percent in that, so the CPU time inside the hooks is measured as well, and judged. What
stays on is small and told beside it: the clock around the loader, and the thread that
reads device and host. Nothing here asserts a time.

    python benchmarks/callbacks.py [--full]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Figure, describe_machine, write_figures
from benchmarks.loops import Case, ours, workload
from nbutils.monitor.device_stats import DeviceStats, HostStats
from nbutils.monitor.events import read_events
from nbutils.train.watchers import DeviceMonitor, GradientMonitor, Watcher, defaults
from nbutils.train.watchers.board import Board
from nbutils.train.watchers.taps import Feed, Taps

GOAL = 1.01
DISTURBED = 1.2
EVERY_S = 30.0
GRADIENTS_EVERY = 200


class Switch(Watcher):
    """The default watchers, on in every other block; keeps the time of each block.

    Args:
        watchers: Whose hooks are called while they are on.
        block: Steps of a block. Each begins and ends half a block beside a multiple.
    """

    def __init__(self, watchers: list[Watcher], block: int) -> None:
        self.seconds: dict[bool, list[float]] = {False: [], True: []}
        self._watchers = watchers
        self._block = block
        self.spent: dict[bool, list[float]] = {False: [], True: []}
        self.looks: list[float] = []
        self._board = Board([])
        self._is_on = False
        self._since = 0.0
        self._steps: dict[bool, Any] = {}
        self._loop: Any = None

    def attach(self, parts: Any) -> None:
        super().attach(parts)
        for watcher in self._watchers:
            watcher.attach(parts)
        self._board = Board(self._watchers)

    def hold(self, loop: Any, plain_step: Any) -> None:
        """Take the loop whose taps go in and out."""
        self._loop = loop
        self._steps = {False: plain_step, True: loop.step}

    def on_fit_start(self, state: Any) -> None:
        self._board.on_fit_start(state)

    def on_epoch_start(self, state: Any) -> None:
        self._board.on_epoch_start(state)

    def on_step_end(self, state: Any) -> None:
        started = time.thread_time()
        if self._is_on:
            self._board.on_step_end(state)
        self.spent[self._is_on].append(time.thread_time() - started)
        if (state.step + self._block // 2) % self._block:
            return
        now = time.thread_time()
        if self._since:
            self.seconds[self._is_on].append(now - self._since)
        self._is_on = not self._is_on
        self._loop.step = self._steps[self._is_on]
        for watcher in self._watchers:
            if isinstance(watcher, GradientMonitor):
                self.looks.append(watcher.cost_s)
                if self._is_on:
                    watcher.on_fit_start(state)  # not what was due while it was off
                    self._board.call()
        self._since = time.thread_time()

    def on_fit_end(self, state: Any) -> None:
        self._board.on_fit_end(state)


def train(
    case: Case, data: Any, folder: Path, watchers: list[Watcher]
) -> tuple[Any, list[float], int]:
    """Weights, logged losses, and the number of ``monitor`` events."""
    home = Path(tempfile.mkdtemp(dir=folder))
    install = Taps.install

    def hold(taps: Taps, loop: Any) -> None:
        plain_step = loop.step
        install(taps, loop)
        for watcher in watchers:
            if isinstance(watcher, Switch):
                watcher.hold(loop, plain_step)

    with (
        patch.object(defaults, "default_watchers", lambda config: watchers),
        patch.object(Taps, "install", hold),
    ):
        model = ours(case, data, case.long, home)
    (log,) = home.rglob("events.jsonl")
    events = read_events(log)
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    return model.state_dict(), losses, sum(e["kind"] == "monitor" for e in events)


def report(case: Case, block: int, folder: Path) -> Figure:
    """Microseconds per step with and without, and their ratio.

    Raises:
        AssertionError: The watchers changed what was trained, or did not watch.
    """
    data = case.data()
    switch = Switch(defaults.default_watchers(_config()), block)
    weights, losses, num_monitored = train(case, data, folder, [switch])
    twin, twin_losses, num_none = train(case, data, folder, [])
    same = all(torch.equal(weights[name], twin[name]) for name in twin)
    if not same or losses != twin_losses or not num_monitored or num_none:
        raise AssertionError(f"{case.name}: the two runs did not do the same work")
    off, on = switch.seconds[False][1:], switch.seconds[True][1:]
    limits = DISTURBED * statistics.median(off), DISTURBED * statistics.median(on)
    pairs = list(zip(off, on, strict=False))
    kept = [p for p in pairs if p[0] <= limits[0] and p[1] <= limits[1]]
    none, watched = (sum(side) for side in zip(*kept, strict=True))
    ratios = [two / one for one, two in kept]
    half = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5
    steps = block * len(kept)
    look_s = statistics.median(switch.looks[2:])
    clock_s = statistics.fmean(switch.spent[False])  # what reading the clock takes
    hooks_s = statistics.fmean(switch.spent[True]) - clock_s
    least_s = statistics.median(switch.spent[True]) - clock_s
    direct_s = hooks_s + look_s / GRADIENTS_EVERY
    print(
        f"\n{case.name}: {len(kept)} of {len(pairs)} pairs of {block} steps; equal "
        f"weights, {len(losses)} equal losses, {num_monitored} monitor events\n"
        f"  off {1e6 * none / steps:.1f} us, on {1e6 * watched / steps:.1f} us, "
        f"ratio {watched / none:.4f} +- {half:.4f}, "
        f"median of pairs {statistics.median(ratios):.4f}\n"
        f"  hooks by themselves {1e6 * hooks_s:.2f} us a step (half of the steps "
        f"{1e6 * least_s:.2f}), a look at gradients "
        f"{1e6 * look_s:.0f} us each {GRADIENTS_EVERY}: "
        f"{100 * direct_s * steps / none:.2f} % of a step"
    )
    name = f"{case.name}: all default callbacks, x none"
    return Figure(name, 1 + direct_s * steps / none, goal=GOAL)


def _config() -> Any:
    import nbutils as nb

    return nb.RunConfig()


def report_what_stays_on() -> None:
    """The clock around the loader, a look for samples, and the sampler's reading."""
    batches = [None] * 20_000
    plain, feed = [], []
    for _ in range(7):
        for loader, times in ((batches, plain), (Feed().around(batches), feed)):
            started = time.thread_time()
            for _batch in loader:
                pass
            times.append((time.thread_time() - started) / len(batches))
    hook = DeviceMonitor().on_step_end
    started = time.thread_time()
    for _batch in batches:
        hook(None)
    look = (time.thread_time() - started) / len(batches)
    host, device = HostStats(), DeviceStats(torch.device("cpu"))
    readings = []
    for _ in range(50):
        started = time.thread_time()
        host.read()
        device.read()
        readings.append(time.thread_time() - started)
    reading = statistics.median(readings)
    clock = statistics.median(feed) - statistics.median(plain)
    print(
        f"\nAlways on: the clock around a batch {1e6 * clock:.2f} us, a look for "
        f"samples {1e6 * look:.2f} us; a reading of the host {1e6 * reading:.0f} us "
        f"each {EVERY_S:.0f} s, {100 * reading / EVERY_S:.4f} % of the time"
    )


def cases(*, is_full: bool) -> list[tuple[Case, int]]:
    """What is measured, and the steps of a block: one look at gradients in each."""
    w1, w2 = workload("W1"), workload("W2")
    times = 3 if is_full else 1
    return [
        (Case(w1, 0, times * 12_000, 1), 200),
        (Case(w1, 0, times * 4_000, 1, precision="fp16"), 200),
        (Case(w2, 0, times * 720, 1), 40),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--full", action="store_true", help="more steps")
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe_machine()}; one thread")
    figures = []
    for case, block in cases(is_full=options.full):
        with tempfile.TemporaryDirectory() as name:
            figures.append(report(case, block, Path(name)))
    report_what_stays_on()
    write_figures(options.figures, figures)
    for figure in figures:
        print("  ".join(figure.cells()))


if __name__ == "__main__":
    main()
