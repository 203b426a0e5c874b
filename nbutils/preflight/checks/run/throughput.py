"""R19: the device does not wait for data."""

from __future__ import annotations

import time
from itertools import islice

from nbutils.data.sources import columns_of
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.plan import make_plan

__all__ = ["CHECK"]

NUM_BATCHES = 3
MAX_SECONDS = 1.5
SLOWER = 2.0
MIN_WAIT_S = 300.0
"""What the whole run must lose before it is worth a warning."""


def run(probe: Probe, claims: Claims) -> None:
    """Seconds per batch of reading against those of computing."""
    seconds = probe.facts.get("step_seconds")
    reading, error = attempt(lambda: _reading(probe))
    if not seconds or error is not None or not reading:
        claims.add("skip", "steps or batches were not timed")
        return
    step, num_workers = min(seconds), probe.config.data.num_workers
    waiting = max(reading / max(num_workers, 1) - (step if num_workers else 0), 0.0)
    text = f"{_ms(reading)} to read a batch, {_ms(step)} to compute a step"
    claims.show([("reading and computing", text)])
    plan = make_plan(probe.config, probe.data.loader("train").num_batches)
    lost = waiting * (plan.steps or 0) * probe.config.train.accumulation
    is_slow = waiting > SLOWER * step and lost > MIN_WAIT_S
    if is_slow and not _is_in_memory(probe):
        wanted = min(8, max(2, round(reading / step)))
        claims.add(
            "warn",
            f"the run waits for data {waiting / (waiting + step):.0%} of its time",
            expected="batches that are ready when a step ends",
            actual=f"{text}, with num_workers={num_workers}: {lost / 60:,.0f} minutes "
            "of waiting in all",
            fix=f"Set num_workers={wanted}, or keep decoded samples in memory.",
        )
        return
    claims.add("pass", "reading keeps up" if waiting < step else text, actual=text)


def _reading(probe: Probe) -> float:
    """Seconds per batch in this process, the first one left out where there is more."""
    loader = probe.data.loader("train")
    loader.set_position(0, 0)
    taken: list[float] = []
    start = time.perf_counter()
    for _ in islice(loader, NUM_BATCHES):
        taken.append(time.perf_counter() - start)
        start = time.perf_counter()
        if sum(taken) > min(MAX_SECONDS, probe.seconds_left):
            break
    return min(taken, default=0.0)


def _is_in_memory(probe: Probe) -> bool:
    pool = probe.data.pool("train")
    return pool is not None and columns_of(pool[0]) is not None


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


CHECK = Check(
    id="R19",
    title="Reading keeps up with computing",
    why="A device that waits for data costs as much as one that works.",
    run=run,
    needs=("R6",),
)
