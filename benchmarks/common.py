"""What the benchmarks share: clocks, repetitions, processes, figures and goals."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

__all__ = [
    "ROOT",
    "Figure",
    "Pair",
    "Repetitions",
    "Timing",
    "child",
    "clocked",
    "describe_machine",
    "read_figures",
    "write_figures",
]

ROOT = Path(__file__).resolve().parent.parent
LEAST_SHARE = 0.93


@dataclass(frozen=True)
class Timing:
    """Seconds of something: of this process's CPU time, and on the wall."""

    cpu: float
    wall: float

    @property
    def share(self) -> float:
        """The part of one core that the process had; above 1 with threads."""
        return self.cpu / max(self.wall, 1e-9)


def clocked(run: Callable[[], object]) -> Timing:
    """How long a call takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Timing(time.process_time() - cpu, time.perf_counter() - wall)


@dataclass(frozen=True)
class Pair:
    """A short and a long run of one arm; what a step takes lies between them."""

    short: Timing
    long: Timing
    num_steps: int = 1

    @property
    def is_quiet(self) -> bool:
        """Whether the long run had nearly all of a core."""
        return self.long.share >= LEAST_SHARE

    @property
    def step(self) -> Timing:
        """Seconds per step."""
        cpu, wall = self.long.cpu - self.short.cpu, self.long.wall - self.short.wall
        return Timing(cpu / self.num_steps, wall / self.num_steps)


@dataclass
class Repetitions:
    """Repeated pairs; those whose process had too little of a core are left out.

    A process that waits for its turn also finds cold caches, so its CPU time is too
    high. Where fewer than three are left, all count, and :attr:`is_noisy` says so.
    """

    every: list[Pair] = field(default_factory=list)

    @property
    def quiet(self) -> list[Pair]:
        """Those that were hardly disturbed."""
        return [pair for pair in self.every if pair.is_quiet]

    @property
    def is_noisy(self) -> bool:
        """Whether the machine was too busy for any choice."""
        return len(self.quiet) < min(3, len(self.every))

    @property
    def kept(self) -> list[Pair]:
        """The pairs that count."""
        return self.every if self.is_noisy else self.quiet

    @property
    def dropped(self) -> str:
        """How many do not, of how many."""
        return f"{len(self.every) - len(self.kept)}/{len(self.every)}"

    @property
    def cpu(self) -> float:
        """Median CPU seconds of a step."""
        return statistics.median(pair.step.cpu for pair in self.kept)

    @property
    def wall(self) -> float:
        """Median seconds of a step on the wall."""
        return statistics.median(pair.step.wall for pair in self.kept)

    @property
    def least(self) -> float:
        """CPU seconds of a step, between the fastest short and the fastest long run."""
        long = min(pair.long.cpu for pair in self.kept)
        short = min(pair.short.cpu for pair in self.kept)
        return (long - short) / self.kept[0].num_steps

    @property
    def spread(self) -> float:
        """Range of the CPU seconds, as a share of their median."""
        values = [pair.step.cpu for pair in self.kept]
        return (max(values) - min(values)) / self.cpu


@dataclass(frozen=True)
class Figure:
    """A measured number and its goal.

    Attributes:
        goal: The most it may be; none: no goal was set.
        note: What limits the figure, such as a busy machine.
    """

    name: str
    value: float
    unit: str = ""
    goal: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing where there is no goal."""
        if self.goal is None:
            return ""
        # Judged as it is printed: 1.004 is no miss of 1.00.
        return "met" if float(self.text(self.value)) <= self.goal else "missed"

    def text(self, number: float) -> str:
        """A number with two decimals, or none if it is large."""
        return f"{number:.0f}" if abs(number) >= 100 else f"{number:.2f}"

    def cells(self) -> tuple[str, str, str, str]:
        """Name, value, goal, verdict."""
        unit = self.unit if self.unit in ("", "%") else f" {self.unit}"
        goal = "" if self.goal is None else f"<= {self.text(self.goal)}{unit}"
        note = f" ({self.note})" if self.note else ""
        return self.name, f"{self.text(self.value)}{unit}", goal, self.verdict + note


def write_figures(path: Path | None, figures: Sequence[Figure]) -> None:
    """Keep figures for the summary; without a path, do nothing."""
    if path is not None:
        path.write_text(json.dumps([asdict(figure) for figure in figures]))


def read_figures(path: Path) -> list[Figure]:
    """What :func:`write_figures` kept."""
    return [Figure(**fields) for fields in json.loads(path.read_text())]


def child(*arguments: str) -> str:
    """What a Python process of its own prints; its errors end this one."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def describe_machine() -> str:
    """Versions, processor, load and date, in one line."""
    busy = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load ?"
    return (
        f"nbutils {version('nbutils')}, torch {version('torch')}, "
        f"Python {platform.python_version()}, {_processor()}, {os.cpu_count()} cores, "
        f"{busy}, {datetime.date.today().isoformat()}"
    )


def _processor() -> str:
    lines: Iterable[str] = ()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    found = names[0] if names else platform.processor() or platform.machine()
    return " ".join(found.split())
