"""Part of R14: how long the run will take, and what that costs."""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.evaluate import evaluate
from nbutils.train.optim import build_optimizer
from nbutils.train.plan import Plan, make_plan

__all__ = ["PRICE", "duration_text", "judge_pace", "wait_for"]

PRICE = "NBUTILS_PRICE_PER_HOUR"
"""What an hour of this machine costs, in any currency."""

WRITE_RATE = 3e8
"""Bytes per second of a checkpoint, as the run itself assumes before its first save."""

NUM_MORE_STEPS = 10
MORE_STEPS_S = 0.6

MIN_OVERRUN = 1.1
"""A plan is too long only if the quickest of the measured steps say so, by 10 %."""


@dataclass(frozen=True)
class _Pace:
    """Seconds of each part: a quick, a middling and a slow step, the rest once."""

    steps: tuple[float, float, float]
    reading: float
    evaluation: float
    saving: float

    def total(self, plan: Plan, config: Any) -> tuple[float, float, float]:
        """Seconds of the whole run at each of the three paces."""
        windows = plan.steps or 0
        batches = windows * config.train.accumulation
        epochs = windows / plan.steps_per_epoch if plan.steps_per_epoch else 0
        fixed = batches * self.reading + math.ceil(epochs) * self.evaluation
        fixed += _num_saves(plan, config) * self.saving
        low, middle, high = (batches * step + fixed for step in self.steps)
        return low, middle, high


def judge_pace(probe: Probe, claims: Claims) -> None:
    """Time of a step, of the whole run, and the price of it."""
    plan = make_plan(probe.config, probe.data.loader("train").num_batches)
    pace = _measure(probe)
    middle = pace.steps[1]
    rate = probe.data.configured_size / (middle + pace.reading)
    text = f"{duration_text(middle)} a batch, {rate:,.0f} samples/s on {probe.device}"
    claims.show([("updates planned", _plan_text(plan, probe.config))])
    if plan.steps is None:
        claims.add("pass", text, actual=f"{text}; a stream's length is not known")
        return
    low, middle_s, high = pace.total(plan, probe.config)
    span = f"{duration_text(low)} to {duration_text(high)}"
    claims.add(
        "pass",
        f"about {duration_text(middle_s)} for training",
        actual=f"{text}; {plan.steps * probe.config.train.accumulation:,} batches: "
        f"about {duration_text(middle_s)}, {span}, by the quartiles of measured steps, "
        "with reading, evaluation and saving",
    )
    claims.show(_rows(pace, span))
    _show_price(probe, (low, high), claims)
    _judge_limit(probe, low, claims)


def _measure(probe: Probe) -> _Pace:
    """What the steps took, and once each: a batch read, an evaluation, a save."""
    seconds = [*probe.facts["step_seconds"], *_more_steps(probe)]
    reading = _reading_seconds(probe)
    return _Pace(
        _quartiles(seconds[1:] or seconds),
        reading,
        _evaluation_seconds(probe),
        probe.facts.get("checkpoint_bytes", 0) / WRITE_RATE,
    )


def _more_steps(probe: Probe) -> list[float]:
    """A few more steps where they are cheap: two or three say little of a spread."""
    if min(probe.facts["step_seconds"]) > MORE_STEPS_S / 4:
        return []
    optimizer = build_optimizer(probe.model, probe.config, probe.task)
    batch = probe.data.batch("train")
    found: list[float] = []
    until = time.perf_counter() + min(MORE_STEPS_S, probe.seconds_left)

    def step() -> None:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        probe.loss(batch, training=True).backward()
        optimizer.step()
        wait_for(probe.device)
        found.append(time.perf_counter() - start)

    while len(found) < NUM_MORE_STEPS and time.perf_counter() < until:
        _, error = attempt(step)
        if error is not None:
            break  # not the run's own path: R6 has taken these steps
    probe.rewind()
    return found[1:]


def _quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of few values, the outer ones."""
    values = sorted(seconds)
    if len(values) < 4:
        return values[0], statistics.median(values), values[-1]
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def _reading_seconds(probe: Probe) -> float:
    """Time to make one batch that the loop has to wait for."""
    loader = probe.data.loader("train")
    loader.set_position(0)

    def read() -> float:
        start = time.perf_counter()
        for _ in loader:
            break
        return time.perf_counter() - start

    took, error = attempt(read)
    if error is not None:
        return 0.0  # R3 has read these batches; it tells what is wrong
    step = statistics.median(probe.facts["step_seconds"])
    workers = probe.config.data.num_workers
    return max(0.0, took / workers - step) if workers else took


def _evaluation_seconds(probe: Probe) -> float:
    """Time of a pass over the validation data, from one batch of it."""
    if not probe.data.has("val") or probe.seconds_left < 0:
        return 0.0
    loader = probe.data.loader("val")
    twin = copy.copy(probe.task)
    twin.model = probe.model

    def measure() -> float:
        start = time.perf_counter()
        evaluate(
            twin,
            [probe.fresh(probe.data.batch("val"))],
            probe.precision,
            probe.device,
            loss_weights=probe.config.loss.loss_weights,
            seed=probe.seed,
        )
        wait_for(probe.device)
        return time.perf_counter() - start

    took, error = attempt(measure)
    return 0.0 if error is not None else took * (loader.num_batches or 1)


def _num_saves(plan: Plan, config: Any) -> int:
    """Checkpoints that the settings ask for over the whole run."""
    settings, steps = config.checkpoint, plan.steps or 0
    count = 1
    if settings.save_every_steps:
        count += steps // settings.save_every_steps
    if settings.save_every_epochs and plan.steps_per_epoch:
        count += steps // (plan.steps_per_epoch * settings.save_every_epochs)
    return count


def _plan_text(plan: Plan, config: Any) -> str:
    whole = "unknown, a stream does not tell" if plan.steps is None else plan.steps
    whole = f"{whole:,}" if isinstance(whole, int) else whole
    if plan.steps_per_epoch is None:
        return whole
    size = config.train.accumulation
    of = f", each of {size} batches" if size > 1 else ""
    return f"{plan.steps_per_epoch:,} an epoch, {whole} in all{of}"


def _rows(pace: _Pace, span: str) -> list[tuple[str, str]]:
    parts = {
        "step": pace.steps[1],
        "reading a batch": pace.reading,
        "evaluation": pace.evaluation,
        "saving": pace.saving,
    }
    told = [f"{name} {duration_text(s)}" for name, s in parts.items() if s]
    return [("time of the run", span), ("of which", ", ".join(told))]


def _show_price(probe: Probe, span: tuple[float, float], claims: Claims) -> None:
    """What the run costs where someone has said what an hour does."""
    given = probe.task.extras.get("price_per_hour", os.environ.get(PRICE))
    price, error = attempt(lambda: None if given is None else float(given))
    if error is not None or (price is not None and not price >= 0):
        claims.add(
            "warn",
            "the price of an hour is no number",
            expected=f"a number >= 0 in {PRICE}, or in extras['price_per_hour']",
            actual=repr(given),
            fix=f"Set {PRICE}=0.42, without a currency.",
        )
    elif price is not None:
        low, high = (price * seconds / 3600 for seconds in span)
        claims.show([("cost", f"{low:.2f} to {high:.2f}, at {price:g} an hour")])


def _judge_limit(probe: Probe, seconds: float, claims: Claims) -> None:
    limit = probe.config.train.max_hours
    if limit is None or seconds <= MIN_OVERRUN * limit * 3600:
        return
    claims.add(
        "warn",
        "the run will stop at max_hours before its last epoch",
        expected=f"at most {limit:g} h",
        actual=f"{duration_text(seconds)} or more",
        fix="Raise max_hours, or plan fewer epochs. land_before_cap shortens a "
        "decaying schedule, so that it still ends.",
    )


def wait_for(device: torch.device) -> None:
    """Return once the device has done what was asked of it."""
    waits: dict[str, Callable[[], None]] = {
        "cuda": lambda: torch.cuda.synchronize(device),
        "mps": torch.mps.synchronize,
    }
    if device.type in waits:
        waits[device.type]()


def duration_text(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration_text(0.0123), duration_text(75), duration_text(7300)
        ('12 ms', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 1:
        return (
            f"{seconds * 1e3:.3g} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
        )
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = math.floor(seconds / 60)
    if minutes < 60:
        return f"{minutes} min {seconds - 60 * minutes:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"
