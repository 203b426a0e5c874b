"""Part of R6: the learning rate over the whole run, followed update by update."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    MultiStepLR,
)

from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.update.plateau import judge_plateau
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer
from nbutils.train.plan import make_plan
from nbutils.train.schedule import build_schedule

__all__ = ["Curve", "follow_schedule", "judge_schedule"]

MAX_SIMULATED = 50_000
MAX_SECONDS = 2.0
DEAD = 1e-8
"""A rate below this share of its peak no longer moves fp32 weights."""
NEGLIGIBLE = 1e-6
LOW, HIGH = 0.1, 0.5
NEARLY = 0.999  # torch's recursive formulas come back to the peak by rounding
MULTIPLIED = 1e3
MANY_EPOCHS = 8
FEW = 20
CYCLIC = (CyclicLR, CosineAnnealingWarmRestarts)
PER_UPDATE = (
    "The schedule is stepped once an update: build it for planned_steps, the second "
    "argument of make_schedule, and multiply counts of epochs by the updates an epoch."
)


@dataclass
class Curve:
    """The rates of a run.

    Attributes:
        planned: Updates of the run; none: not known.
        base: The optimizer's own rate of each group, before the schedule.
        groups: The rate of each group at each update that was followed.
        lead: Index of the group that stands for the configured rate.
        error: What building or stepping the schedule raised.
        scheduler: The task's own torch scheduler; none: a built-in curve.
        names: What the groups are called.
        is_foreign: Whether the scheduler was built on another optimizer.
    """

    planned: int | None
    base: list[float]
    groups: list[list[float]]
    lead: int = 0
    error: Exception | None = None
    scheduler: Any = None
    names: list[str] = field(default_factory=list)
    is_foreign: bool = False

    @property
    def rates(self) -> list[float]:
        """The rate that stands for the run: that of the leading group."""
        return self.groups[self.lead] if self.groups else []

    @property
    def is_whole(self) -> bool:
        """Whether every planned update was followed."""
        return self.planned is not None and len(self.rates) >= self.planned

    @property
    def peaks(self) -> list[float]:
        """The highest rate of each group."""
        return [max(rates, default=0.0) for rates in self.groups]

    @property
    def has_warmup(self) -> bool:
        """Whether the run begins well below its peak."""
        rates = self.rates
        return bool(rates) and rates[0] < HIGH * max(rates)


def follow_schedule(probe: Probe) -> Curve:
    """Build optimizer and schedule as the run will, and step through the plan."""
    plan = make_plan(probe.config, probe.data.loader("train").num_batches)
    optimizer = build_optimizer(probe.model, probe.config, probe.task)
    groups: list[list[float]] = [[] for _ in optimizer.param_groups]
    curve = Curve(plan.steps, _rates(optimizer), groups)
    curve.names = [
        str(group.get("name", f"{number} ({len(group['params'])} tensors)"))
        for number, group in enumerate(optimizer.param_groups)
    ]
    _, curve.error = attempt(lambda: _follow(probe, optimizer, curve))
    return curve


def _follow(probe: Probe, optimizer: Optimizer, curve: Curve) -> None:
    schedule = build_schedule(optimizer, probe.config, curve.planned, probe.task)
    curve.scheduler = getattr(schedule, "_scheduler", None)
    curve.is_foreign = _is_foreign(curve.scheduler, optimizer)
    curve.lead = getattr(schedule, "_lead", 0)
    over_s = time.perf_counter() + MAX_SECONDS
    for number in range(min(curve.planned or 1, MAX_SIMULATED)):
        for rates, rate in zip(curve.groups, _rates(optimizer), strict=True):
            rates.append(rate)
        schedule.advance()
        if number % 64 == 0 and time.perf_counter() > over_s:
            return


def _is_foreign(scheduler: Any, optimizer: Optimizer) -> bool:
    """Whether a scheduler moves the groups of another optimizer alone."""
    own = getattr(scheduler, "optimizer", None)
    if own is None or own is optimizer:
        return False
    known = {id(group) for group in optimizer.param_groups}
    groups = getattr(own, "param_groups", None)
    return bool(groups) and not any(id(group) in known for group in groups or ())


def _rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def judge_schedule(probe: Probe, curve: Curve, claims: Claims) -> None:
    """What the curve shows that no run is meant to do."""
    if curve.error is not None:
        claims.add(
            "fail",
            "the schedule does not last as long as the run",
            expected=f"a learning rate for each of {curve.planned or 'all'} updates",
            actual=f"{quote(curve.error)}\nafter {len(curve.rates)} updates",
            fix="Build it for planned_steps, the second argument of make_schedule; "
            "set max_steps where the data has no length.",
        )
        return
    if curve.is_foreign:
        claims.add(
            "warn",
            "the schedule moves another optimizer than the one that trains",
            expected="a schedule built on the optimizer that make_schedule is given",
            actual=f"{type(curve.scheduler).__name__} holds a "
            f"{type(curve.scheduler.optimizer).__name__} of its own; the learning "
            f"rate of the run stays at {curve.base[curve.lead]:.3g}",
            fix="Pass on the first argument of make_schedule.",
        )
        return
    judge_plateau(probe, curve.scheduler, claims)
    rates = curve.rates
    claims.show([(f"learning rate over {len(rates):,} updates", _told(rates))])
    if _judge_milestones(probe, curve, claims):
        return
    if _judge_values(curve, claims) and any(curve.peaks):
        if not _judge_scale(curve, claims):
            _judge_shape(curve, claims)
        _judge_groups(probe, curve, claims)


def _told(rates: list[float]) -> str:
    """The curve in words, by its key points."""
    peak = max(rates)
    at = rates.index(peak)
    points = [(0, rates[0]), (at, peak), (len(rates) // 2, rates[len(rates) // 2])]
    points += [(len(rates) - 1, rates[-1])]
    told = dict.fromkeys(f"{rate:.3g} at {i:,}" for i, rate in sorted(points))
    first = f"{rates[0]:.3g} at first, {peak:.3g} at most, {rates[-1]:.3g} at last"
    return f"{first} ({', '.join(told)})"


def _judge_milestones(probe: Probe, curve: Curve, claims: Claims) -> bool:
    """Milestones that are epochs, though a schedule is stepped once an update."""
    scheduler, epochs = curve.scheduler, probe.config.train.epochs
    if not isinstance(scheduler, MultiStepLR) or not curve.planned:
        return False
    last = max(scheduler.milestones, default=0)
    if not 0 < last <= epochs or curve.planned < MANY_EPOCHS * last:
        return False
    claims.add(
        "warn",
        "the milestones of the schedule are epochs, but it is stepped once an update",
        expected=f"milestones among the {curve.planned:,} planned updates",
        actual=f"the last one is {last:,}: the learning rate has fallen to "
        f"{curve.rates[-1]:.3g} after {last / curve.planned:.0%} of the run",
        fix=PER_UPDATE,
    )
    return True


def _judge_values(curve: Curve, claims: Claims) -> bool:
    """No NaN, nothing below 0, not 0 throughout; whether it is so."""
    everything = [rate for rates in curve.groups for rate in rates]
    if not all(map(math.isfinite, everything)):
        claims.add(
            "fail",
            "the learning rate is not finite",
            expected="a finite learning rate",
            actual=f"{everything[0]:.3g} at first, then NaN or Inf",
            fix="Look for a division by 0 in the schedule.",
        )
        return False
    peak = max(everything, default=0.0)
    low = min(everything, default=0.0)
    if low < -1e-6 * max(peak, -low * 1e-3):
        rates = next(rates for rates in curve.groups if min(rates) == low)
        at = next(i for i, rate in enumerate(rates) if rate < 0)
        claims.add(
            "fail",
            "the learning rate becomes negative: the loss is then climbed",
            expected="a learning rate of at least 0",
            actual=f"{low:.3g}, below 0 from update {at:,} of {len(rates):,} on",
            fix=f"Clamp the factor at 0. {PER_UPDATE}",
        )
        return False
    if len(curve.rates) > 2 and peak == 0:
        claims.add(
            "fail",
            "the learning rate is 0 for the whole run",
            expected="a learning rate above 0",
            actual=f"0 at each of {len(curve.rates):,} updates; the optimizer was "
            f"built with {curve.base[curve.lead]:.3g}",
            fix=f"Look at the factor that the schedule gives. {PER_UPDATE}",
        )
        return False
    return True


def _judge_scale(curve: Curve, claims: Claims) -> bool:
    """A schedule multiplies the optimizer's rate; whether it is far from it."""
    base, peak = curve.base[curve.lead], max(curve.rates)
    rises_late = curve.rates[-1] >= NEARLY * peak
    if curve.scheduler is None or base <= 0 or not curve.rates:
        return False
    if peak > MULTIPLIED * base and base >= 1e-8:
        claims.add(
            "warn",
            f"the schedule multiplies the learning rate by {peak / base:,.0f}",
            expected=f"about the optimizer's own rate, {base:.3g}",
            actual=f"{peak:.3g} at update {curve.rates.index(peak):,}",
            fix="LambdaLR's function gives a factor, not a rate; look at what it "
            f"divides by. {PER_UPDATE}",
        )
        return True
    if peak <= base * LOW**2 and base <= LOW and not rises_late:
        claims.add(
            "warn",
            f"the learning rate never gets above {peak / base:.2g} of the optimizer's",
            expected=f"a peak of about {base:.3g}",
            actual=f"{peak:.3g} at most",
            fix="LambdaLR's function gives a factor that is multiplied with lr: return "
            "1.0 for the peak, not the rate itself.",
        )
        return True
    return False


def _judge_shape(curve: Curve, claims: Claims) -> None:
    """Where the run loses its steps: at its begin, its end, or by turning up again."""
    rates = [max(column) for column in zip(*curve.groups, strict=True)]
    count, peak = len(rates), max(rates)
    if count < 2:
        return
    start = next(i for i, rate in enumerate(rates) if rate > DEAD * peak)
    if start:
        text = f"the learning rate is 0 for the first {start:,} of {count:,} updates"
        if start > max(2, 0.05 * count):
            claims.add(
                "warn",
                text,
                expected="a learning rate above 0 from the first updates on",
                actual=f"0 until update {start:,}, then {rates[start]:.3g}",
                fix=f"Start the warm-up at (step + 1) / warmup_steps. {PER_UPDATE}",
            )
        else:
            claims.show([("schedule", text)])
    if not curve.is_whole:
        return
    if not _judge_turns(curve, rates, claims):
        _judge_end(curve, rates, claims)


def _judge_turns(curve: Curve, rates: list[float], claims: Claims) -> bool:
    """Whether the curve goes up where runs end; a warning then."""
    count, peak = len(rates), max(rates)
    lows = [i for i, rate in enumerate(rates) if rate <= LOW * peak]
    high = next(i for i, rate in enumerate(rates) if rate >= NEARLY * peak)
    later = [i for i in lows if i > high]
    period = _cosine_period(curve.scheduler)
    rest = rates[later[0] :] if later else []
    rises_again = rest != sorted(rest, reverse=True)
    if rises_again and period and period <= 0.75 * count:
        claims.add(
            "warn",
            "the cosine schedule turns up again before the run ends",
            expected=f"T_max of about {count:,}, the planned updates",
            actual=f"T_max={period:,} of {count:,} updates: the rate falls from "
            f"{peak:.3g} to {min(rates):.3g} at update {later[0]:,}, and rises "
            f"again; it ends at {rates[-1]:.3g}",
            fix=f"{PER_UPDATE} For restarts on purpose: CosineAnnealingWarmRestarts.",
        )
        return True
    if later and rates[-1] > HIGH * peak and isinstance(curve.scheduler, CYCLIC):
        text = f"a cycle is cut short: the run ends at {rates[-1]:.3g}"
        claims.show([("schedule", text)])
        return True
    if later and rates[-1] > HIGH * peak:
        claims.add(
            "warn",
            "the run ends while the learning rate is high again",
            expected="a rate that is low at the end of the run",
            actual=f"{rates[later[0]]:.3g} at update {later[0]:,}, and "
            f"{rates[-1]:.3g} at the last of {count:,}; the peak is {peak:.3g}",
            fix=f"Let the last cycle end with the run. {PER_UPDATE}",
        )
        return True
    is_rising = rates[-1] == peak and rates[0] < HIGH * peak
    if is_rising and curve.scheduler is not None and _is_monotonic(rates):
        claims.add(
            "warn",
            "the warm-up outlasts the run: the learning rate rises to the end",
            expected="a warm-up that is a small part of the run",
            actual=f"{rates[0]:.3g} at first, {peak:.3g} at the last of {count:,} "
            "updates",
            fix=f"Shorten the warm-up, or plan more epochs. {PER_UPDATE}",
        )
        return True
    return False


def _is_monotonic(rates: list[float]) -> bool:
    """Whether it rises all the way; a last plateau is no longer a warm-up."""
    rest = rates[int(len(rates) * 0.9) :]
    return rates == sorted(rates) and (len(rest) < 2 or rest[0] < rest[-1])


def _cosine_period(scheduler: Any) -> int | None:
    """``T_max`` of a cosine schedule, or of one inside a composed one."""
    if isinstance(scheduler, CosineAnnealingLR):
        return int(scheduler.T_max)
    inner = [_cosine_period(part) for part in getattr(scheduler, "_schedulers", ())]
    return next((period for period in inner if period), None)


def _judge_end(curve: Curve, rates: list[float], claims: Claims) -> None:
    """A rate that is gone long before the run ends trains nothing any more."""
    count, peak = len(rates), max(rates)
    base = max(peak, *curve.base)
    last = max(i for i, rate in enumerate(rates) if rate > DEAD * peak)
    alive = [i for i, rate in enumerate(rates) if rate > NEGLIGIBLE * base]
    gone = max(alive, default=0)
    if count - last - 1 > max(2, 0.1 * count):
        claims.add(
            "warn",
            f"the learning rate reaches {rates[last + 1]:.1g} at update {last + 1:,} "
            f"of {count:,}",
            expected="a schedule that ends where the run does",
            actual=f"{peak:.3g} at most, next to nothing for the last "
            f"{1 - (last + 1) / count:.0%} of the run",
            fix=PER_UPDATE,
        )
    elif gone + 1 < 0.5 * count and count > FEW:
        claims.add(
            "warn",
            f"the learning rate is below a millionth at update {gone + 1:,} of "
            f"{count:,}",
            expected="a rate that trains in most of the run",
            actual=f"{base:.3g} at most, {rates[count // 2]:.3g} half-way",
            fix=PER_UPDATE,
        )


def _judge_groups(probe: Probe, curve: Curve, claims: Claims) -> None:
    """Groups whose rate is 0 throughout never train."""
    idle = [
        name for name, peak in zip(curve.names, curve.peaks, strict=True) if peak == 0
    ]
    if not idle or "frozen on purpose" in probe.task.declares:
        return
    claims.add(
        "warn",
        f"{len(idle)} parameter groups have a learning rate of 0 for the whole run",
        expected="a rate above 0 in each group",
        actual=f"group {', '.join(idle)}",
        fix="Set their lr; or set requires_grad=False on what should rest, or declare "
        '"frozen on purpose".',
    )
