"""The loops in a real kernel: CPU time there, and what reaches the front end.

Each run is a cell of its own in one ``ipykernel``, which stands for a notebook that
someone looks at: it may ask for input, so the panel is live. The hand-written loops
draw nothing. Ours have the panel, the event log and a checkpoint an epoch.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from benchmarks.common import ROOT, Pair, Repetitions, Timing
from benchmarks.loops import ARMS, Case, lean, ours, raw, same_flags, workload

__all__ = ["Traffic", "measure_notebook"]

STEPS_PER_EPOCH = 1000
NAMES = ("raw", "lean", "nbutils, same flags", "nbutils")
# Beside these a cell sends what any cell sends: its input and the kernel's status.
COUNTED = {
    "display_data",
    "update_display_data",
    "stream",
    "clear_output",
    "comm_open",
    "comm_msg",
    "comm_close",
    "execute_result",
}


@dataclass
class Traffic:
    """What the long runs of an arm sent."""

    counts: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    most_bytes: int = 0

    @property
    def num_messages(self) -> int:
        """Median over the runs."""
        return int(statistics.median(self.counts))

    @property
    def per_second(self) -> float:
        """Median over the runs."""
        return statistics.median(self.rates)


def run_cell(name: str, steps: int) -> Timing:
    """One run, in the kernel: called by the cell."""
    import torch

    from benchmarks.common import clocked

    torch.set_num_threads(1)
    case = Case(workload("W1"), 0, 0, 0)
    data = case.work.data(STEPS_PER_EPOCH)
    by_hand = {"raw": raw, "lean": lean}
    of_ours = {"nbutils, same flags": same_flags, "nbutils": ours}
    more: dict[str, Any] = {
        "panel": "auto",
        "save_every_epochs": 1,
        "epochs": -(-steps // STEPS_PER_EPOCH),
    }
    with tempfile.TemporaryDirectory() as place:
        if name in by_hand:
            return clocked(lambda: by_hand[name](case, data, steps, Path(place)))
        arm = of_ours[name]
        return clocked(lambda: arm(case, data, steps, Path(place), **more))


@contextmanager
def kernel() -> Iterator[Any]:
    """A client of a fresh kernel of this Python."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def execute(client: Any, code: str) -> tuple[Any, list[dict[str, Any]]]:
    """Run a cell that sets ``answer``; gives that, and the messages it sent."""
    messages: list[dict[str, Any]] = []
    reply = client.execute_interactive(
        code,
        store_history=False,
        allow_stdin=True,
        user_expressions={"answer": "answer"},
        output_hook=messages.append,
        timeout=600,
    )
    content = reply["content"]
    if content["status"] != "ok":
        raise RuntimeError("\n".join(content["traceback"]))
    answer = content["user_expressions"]["answer"]["data"]["text/plain"]
    sent = [message for message in messages if message["msg_type"] in COUNTED]
    return json.loads(answer.strip("'")), sent


def measure_notebook(
    short: int, long: int, repeats: int
) -> tuple[dict[str, Repetitions], dict[str, Traffic]]:
    """Seconds per step of each arm, and what ours sent."""
    found = {name: Repetitions() for name in NAMES}
    sent = {name: Traffic() for name in NAMES if name not in ("raw", "lean")}
    assert set(NAMES) <= set(ARMS)
    with kernel() as client:
        set_up = f"import sys, json; sys.path.insert(0, {str(ROOT)!r}); answer = '0'"
        execute(client, set_up)
        for repeat in range(repeats):
            turn = repeat % len(NAMES)
            for name in NAMES[turn:] + NAMES[:turn]:
                times = []
                for steps in (short, long):
                    timing, messages = execute(client, cell(name, steps))
                    times.append(Timing(*timing))
                if name in sent:
                    note(sent[name], messages, times[-1].wall)
                found[name].every.append(Pair(times[0], times[1], long - short))
    return found, sent


def cell(name: str, steps: int) -> str:
    """The code of one run."""
    return (
        "from benchmarks.notebook import run_cell\n"
        f"timing = run_cell({name!r}, {steps})\n"
        "answer = json.dumps([timing.cpu, timing.wall])"
    )


def note(traffic: Traffic, messages: list[dict[str, Any]], seconds: float) -> None:
    """Take in what one run sent."""
    traffic.counts.append(len(messages))
    traffic.rates.append(len(messages) / seconds)
    for message in messages[:-1]:  # the last one is the result that stays
        size = len(json.dumps(message["content"]))
        traffic.most_bytes = max(traffic.most_bytes, size)
