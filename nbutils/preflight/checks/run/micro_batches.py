"""Part of R14: which micro-batch is the fastest, and what each one needs."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nbutils.data.batch import batch_size
from nbutils.data.loader import OrderedLoader
from nbutils.environment.limits import available_memory_bytes
from nbutils.monitor.memory import (
    device_memory_bytes,
    host_rss_bytes,
    reset_peak_memory,
    swapped_bytes,
)
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.run.pace import duration_text, wait_for
from nbutils.preflight.fake.plan import size_text
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.memory_errors import free_memory, is_out_of_memory
from nbutils.train.split import split_batch

__all__ = ["judge_micro_batches"]

BUDGET_S = {"standard": 2.0, "rehearsal": 6.0}
MAX_STEP_S = 0.25
"""Where a batch takes longer, depth standard does not try other sizes."""

SLOWDOWN = 2.0
MIN_BATCH_S = 0.02
"""Below, overheads and a busy machine decide, and nobody waits for it."""

NUM_CONFIRMED = 3
MIN_SWAP_BYTES = 256 * 2**20
MEMORY_SHARE = 0.5
"""The double size is tried where half of what is free holds twice what was needed."""


@dataclass(frozen=True)
class _Trial:
    """One size: seconds a sample, and the most memory that was in use, in bytes."""

    size: int
    seconds: float
    memory: int

    def text(self) -> str:
        used = f", {size_text(self.memory)}" if self.memory else ""
        return f"{self.size}: {duration_text(self.seconds)} a sample{used}"


def judge_micro_batches(probe: Probe, claims: Claims) -> None:
    """Forward and backward of the same samples, in parts of 1, 2, 4 and so on."""
    _show_memory(probe, claims)
    size = probe.data.configured_size
    reason = _why_not(probe, size)
    samples, error = (None, None) if reason else attempt(lambda: _samples(probe, size))
    if reason or error is not None or samples is None:
        claims.show([("micro-batches", f"not compared: {reason or error or 'stream'}")])
        return
    swapped = swapped_bytes()
    trials, notes = _try_sizes(probe, samples, size)
    claims.show([("micro-batches", "\n".join([t.text() for t in trials] + notes))])
    if not trials:
        return
    fastest = min(trials, key=lambda trial: trial.seconds)
    text = f"{fastest.size}: {1 / max(fastest.seconds, 1e-12):,.0f} samples/s"
    claims.show([("fastest micro-batch", text)])
    _judge_swap(swapped_bytes() - swapped, claims)
    _judge_size(probe, samples, trials, size, claims)


def _why_not(probe: Probe, size: int) -> str:
    seconds = min(probe.facts["step_seconds"])
    if size < 2:
        return "a batch is one sample"
    if probe.facts.get("depth") == "standard" and seconds > MAX_STEP_S:
        return f"a step takes {duration_text(seconds)}; depth='rehearsal' compares them"
    if probe.seconds_left < BUDGET_S["standard"]:
        return "no time was left"
    return ""


class _Samples:
    """The samples of one batch, and batches made of runs of them."""

    def __init__(self, probe: Probe, samples: list[Any] | None, whole: Any) -> None:
        self._probe = probe
        self._samples = samples
        self._whole = whole

    @property
    def can_double(self) -> bool:
        """Whether more samples than one batch holds can be had."""
        return self._samples is not None

    def parts(self, size: int, count: int) -> list[Any]:
        """``count`` samples in batches of ``size``, on the device."""
        if self._samples is None:
            cut = split_batch(copy.deepcopy(self._whole), max(count // size, 1))
            return [self._probe.fresh(part) for part in cut]
        taken = [self._samples[n % len(self._samples)] for n in range(count)]
        edges = [*range(0, count, size), count]
        collate = self._probe.data.collate
        runs = [copy.deepcopy(taken[a:b]) for a, b in pairwise(edges)]
        return [self._probe.fresh(collate(run)) for run in runs]


def _samples(probe: Probe, size: int) -> _Samples | None:
    """The first batch's samples; a batch that only comes whole is split."""
    data, loader = probe.data.samples("train"), probe.data.loader("train")
    whole = probe.data.batch("train")
    if data is None or not isinstance(loader, OrderedLoader):
        split_batch(copy.deepcopy(whole), 2)  # raises where that cannot be done
        return _Samples(probe, None, whole)
    samples = [data[index] for index in loader.indices(0)[:size]]
    return _Samples(probe, samples, whole)


def _try_sizes(
    probe: Probe, samples: _Samples, size: int
) -> tuple[list[_Trial], list[str]]:
    """Sizes from the configured one downwards, then its double, while time lasts."""
    seconds = BUDGET_S[probe.facts.get("depth", "standard")]
    until = time.perf_counter() + min(seconds, probe.seconds_left)
    sizes = [size, *(2**n for n in reversed(range(size.bit_length())) if 2**n < size)]
    trials: list[_Trial] = []
    notes: list[str] = []
    for number in [*sizes, 2 * size]:
        if number > size and not _can_double(probe, samples, trials):
            continue
        if time.perf_counter() > until:
            notes.append(f"{number}: not tried, time was over")
            continue
        trial, error = attempt(lambda n=number: _trial(probe, samples, n, until))
        if error is not None:
            notes.append(f"{number}: {_refusal(error)}")
        if error is not None and is_out_of_memory(error):
            free_memory(probe.device)
        if trial is not None:
            trials.append(trial)
    return sorted(trials, key=lambda trial: trial.size), notes


def _refusal(error: Exception) -> str:
    if is_out_of_memory(error):
        return "does not fit into memory"
    first = (str(error).splitlines() or [""])[0]
    return f"refused, {type(error).__name__}: {first:.80}"


def _can_double(probe: Probe, samples: _Samples, trials: list[_Trial]) -> bool:
    """Whether there is room: on a device by what was measured, else by what is free."""
    if not samples.can_double or not trials:
        return False
    told = device_memory_bytes(probe.device)
    if "total" in told:
        return 2 * told["peak"] < told["total"]
    if probe.device.type != "cpu":
        return False
    grown = max(t.memory for t in trials) - min(t.memory for t in trials)
    return 2 * grown + 2**28 < MEMORY_SHARE * available_memory_bytes()


def _trial(probe: Probe, samples: _Samples, size: int, until: float) -> _Trial | None:
    """The quickest of a few passes over as many samples as a batch of the run holds.

    None: there was no time for one that counts.
    """
    count = max(probe.data.configured_size, size)
    parts = samples.parts(size, count)
    reset_peak_memory(probe.device)
    most = _pass(probe, parts[:1])  # warms up
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        most = max(most, _pass(probe, parts))
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > until:
            break
    peak = device_memory_bytes(probe.device).get("peak")
    return _Trial(size, best / sum(map(batch_size, parts)), peak or most)


def _pass(probe: Probe, parts: list[Any]) -> int:
    """Forward and backward of each part; memory of this process at its fullest."""
    most = 0
    for part in parts:
        outputs = probe.forward(part, training=True)
        loss = probe.total(probe.terms(outputs, part))
        most = max(most, host_rss_bytes())  # activations are alive
        loss.backward()
        del outputs, loss
        for parameter in probe.model.parameters():
            parameter.grad = None
    wait_for(probe.device)
    return most


def _judge_size(
    probe: Probe, samples: _Samples, trials: list[_Trial], size: int, claims: Claims
) -> None:
    """Whether a smaller micro-batch is clearly faster; measured once more, in turns."""
    configured = next((trial for trial in trials if trial.size == size), None)
    smaller = [trial for trial in trials if trial.size < size]
    if configured is None or not smaller or "samples interact" in probe.task.declares:
        return
    best = min(smaller, key=lambda trial: trial.seconds)
    is_slow = configured.seconds > SLOWDOWN * best.seconds
    if not is_slow or configured.seconds * size < MIN_BATCH_S:
        return
    if not _is_confirmed(probe, samples, size, best.size):
        return
    claims.add(
        "warn",
        f"batch_size={size} is slower per sample than {best.size}",
        expected="a larger batch that is at least as fast per sample",
        actual=f"{configured.text()}; {best.text()}",
        fix=f"Use batch_size={best.size} with accumulation={-(-size // best.size)} for "
        "the same effective batch. Where samples are padded to the longest of a batch, "
        "sort them by length.",
    )


def _is_confirmed(probe: Probe, samples: _Samples, size: int, smaller: int) -> bool:
    """The same again in turns: a machine that is busy for a moment slows both."""
    best = {size: float("inf"), smaller: float("inf")}
    parts = {n: samples.parts(n, size) for n in best}
    for _ in range(NUM_CONFIRMED):
        for number, batches in parts.items():
            start = time.perf_counter()
            _, error = attempt(lambda given=batches: _pass(probe, given))
            best[number] = min(best[number], time.perf_counter() - start)
            if error is not None or probe.seconds_left < 0:
                return False
    return best[size] > SLOWDOWN * best[smaller]


def _judge_swap(grown: int, claims: Claims) -> None:
    if grown < MIN_SWAP_BYTES:
        return
    claims.add(
        "warn",
        "the machine swaps at this batch size",
        expected="no memory on the disk",
        actual=f"{size_text(grown)} of this process went to swap",
        fix="Use a smaller batch_size and more accumulation, or fewer num_workers.",
    )


def _show_memory(probe: Probe, claims: Claims) -> None:
    """What is in use against what there is."""
    told = device_memory_bytes(probe.device)
    if "total" in told:
        text = f"{size_text(told['peak'])} at most, of {size_text(told['total'])}"
        claims.show([(f"memory of {probe.device}", text)])
    used, free = host_rss_bytes(), available_memory_bytes()
    text = f"{size_text(used)} in use by this process, {size_text(free)} free"
    claims.show([("main memory", text)])
