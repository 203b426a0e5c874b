"""Part of R6: the learning rate is tried, beside smaller and larger ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from nbutils.data.loader import OrderedLoader
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.update.schedule_curve import Curve
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.optim import build_optimizer
from nbutils.train.precision import Precision
from nbutils.train.step import forward_loss
from nbutils.train.update import make_update

__all__ = ["judge_learning_rate"]

NUM_STEPS = 16
MIN_STEPS = 8
NUM_BATCHES = 3
MAX_SECONDS = 5.0
SMALLER = (0.1, 0.01, 1e-3, 1e-4)
EXPLODED = 10.0
TOO_LITTLE = 1e-4
FEW_UPDATES = 1000
"""A short run is no fault of the rate: it is judged as if it had so many updates."""


@dataclass
class Trial:
    """What steps at a share of the peak rate do to the loss of a few batches.

    Attributes:
        start: Mean loss of the batches before the first step.
        end: After the last one; infinite if it is not finite.
        losses: Of the batch of each step, before it.
        predicted: How much the first update should lower the loss: the gradient times
            the way that was gone, in fp64.
    """

    start: float = math.nan
    end: float = math.inf
    losses: list[float] = field(default_factory=list)
    predicted: float = 0.0

    @property
    def top(self) -> float:
        """The highest; infinite if one is not finite."""
        found = [self.end, *self.losses]
        return max(found) if all(map(math.isfinite, found)) else math.inf

    @property
    def middle(self) -> float:
        """The median after the first step: half of the steps lie above it."""
        later = sorted(self.losses[1:])
        return later[len(later) // 2] if later else self.start

    @property
    def has_left(self) -> bool:
        """Whether it went far above its start, and mostly stays above it."""
        far = self.start + EXPLODED * max(abs(self.start), self.start - self.end)
        return self.top == math.inf or (self.top > far and self.middle > self.start)


def judge_learning_rate(
    probe: Probe, curve: Curve, step_s: float, claims: Claims
) -> None:
    """Step on a few batches at the peak of the curve, and compare with other rates.

    A rate is too high where the loss runs away and falls at a part of the rate. It is
    too low where even the whole plan would not move the loss.
    """
    if not curve.peaks or max(curve.peaks) <= 0:
        return
    num_steps = _affordable(probe, step_s)
    if num_steps < MIN_STEPS:
        claims.add("skip", "the learning rate: not tried, since the model is slow here")
        return
    trial, error = attempt(lambda: _try(probe, curve, 1.0, num_steps))
    if error is not None or not math.isfinite(trial.start):
        return  # other claims tell
    text = f"{trial.start:.4g} → {trial.end:.4g} in {num_steps} steps"
    claims.show([("a few batches at the peak rate", text)])
    if trial.has_left:
        _judge_high(probe, curve, trial, num_steps, claims)
    elif _is_still(curve, trial):
        _judge_low(probe, curve, trial, num_steps, claims)


def _affordable(probe: Probe, step_s: float) -> int:
    budget_s = min(MAX_SECONDS, probe.seconds_left / 3)
    most = budget_s / max(1.5 * step_s, 1e-6)
    return next((n for n in (NUM_STEPS, MIN_STEPS) if n <= most), 0)


def _batches(probe: Probe) -> list[Any]:
    loader = probe.data.loader("train")
    if not isinstance(loader, OrderedLoader):
        return [probe.data.batch("train")]
    full = len(loader.indices(0))
    numbers = [i for i in range(len(loader)) if len(loader.indices(i)) == full]
    return [probe.data.batch("train", None, i) for i in numbers[:NUM_BATCHES]]


def _try(probe: Probe, curve: Curve, factor: float, num_steps: int) -> Trial:
    """Steps on a few batches with the run's own update, the same noise in each."""
    probe.rewind()
    model = probe.model.train()
    optimizer = build_optimizer(model, probe.config, probe.task)
    settings = probe.config.precision
    precision = Precision(
        settings.precision, probe.device, loss_fp32=settings.loss_fp32
    )
    if precision.scale is not None:
        precision.scale.value.fill_(1024.0)  # no time to find its own value
    update = make_update(optimizer, precision, probe.config.guard, probe.device)[0]
    batches = _batches(probe)
    trial = Trial(start=_mean(probe, model, batches, precision))
    rise = num_steps // 2 if curve.has_warmup else 0
    for number in range(num_steps):
        share = factor * min(1.0, (number + 1) / (rise + 1))
        for group, peak in zip(optimizer.param_groups, curve.peaks, strict=True):
            _set_rate(group, peak * share)
        loss = _loss(probe, model, batches[number % len(batches)], precision)
        trial.losses.append(float(loss.detach()))
        if not math.isfinite(trial.losses[-1]):
            return trial
        precision.backward(loss)
        if number == 0:
            trial.predicted = _updated(optimizer, update, loss, precision)
        else:
            update(loss.detach())
    end = _mean(probe, model, batches, precision)
    trial.end = end if math.isfinite(end) else math.inf
    return trial


def _mean(probe: Probe, model: Any, batches: list[Any], precision: Precision) -> float:
    with torch.no_grad():
        found = [float(_loss(probe, model, b, precision)) for b in batches]
    return sum(found) / len(found)


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _loss(probe: Probe, model: Any, batch: Any, precision: Precision) -> torch.Tensor:
    seed_everything(probe.seed)
    moved = probe.fresh(batch)
    weights = probe.config.loss.loss_weights
    return forward_loss(probe.task, model, moved, precision, weights)[2]


def _updated(optimizer: Any, update: Any, loss: Any, precision: Precision) -> float:
    """Apply the first update; gives what it should take off the loss."""
    weights = [
        p
        for group in optimizer.param_groups
        for p in group["params"]
        if p.grad is not None and p.layout == torch.strided and not p.grad.is_sparse
    ]
    scale = 1.0 if precision.scale is None else float(precision.scale.value)
    before = [(p.detach().clone(), p.grad.detach().clone()) for p in weights]
    update(loss.detach())
    taken = 0.0
    for p, (old, grad) in zip(weights, before, strict=True):
        way = (old - p.detach()).flatten()
        taken += float(torch.vdot(grad.flatten().to(way.dtype), way).real) / scale
    return taken


def _judge_high(
    probe: Probe, curve: Curve, trial: Trial, num_steps: int, claims: Claims
) -> None:
    """Warn if the loss runs away and falls at smaller rates."""
    longer, _ = attempt(lambda: _try(probe, curve, 1.0, 2 * num_steps))
    smaller: dict[float, Trial] = {}
    for factor in SMALLER:
        other, error = attempt(lambda f=factor: _try(probe, curve, f, num_steps))
        if error is not None:
            return
        smaller[factor] = other
        if other.end < trial.start and not other.has_left:
            break
        if probe.seconds_left < 0:
            claims.add("skip", "the learning rate: not compared, time is over")
            return
    best = min(smaller.values(), key=lambda other: other.end)
    if longer is None or not best.end < trial.start:
        return
    if not longer.has_left:
        return
    is_broken = not math.isfinite(longer.top)
    peak = max(curve.peaks)
    good = max(f for f, other in smaller.items() if other.end < trial.start)
    told = ", ".join(
        f"at {peak * factor:.3g} it goes {other.start:.4g} → {other.end:.4g}"
        for factor, other in smaller.items()
    )
    end = "NaN or Inf" if is_broken else f"{longer.middle:.4g} and more"
    claims.add(
        "warn",
        "the learning rate is too high: the loss runs away",
        expected="a loss that falls when a few batches are repeated",
        actual=f"at lr {peak:.3g} the loss goes {trial.start:.4g} → {end} in half of "
        f"{len(longer.losses)} steps (at most {longer.top:.4g}); {told}",
        fix=f"Lower lr, to about {peak * good:.2g}, or raise warmup_steps.",
    )


def _is_still(curve: Curve, trial: Trial) -> bool:
    """Whether the loss would stay where it is for the whole plan, and longer."""
    updates = max(curve.planned or 0, FEW_UPDATES)
    peak = max(curve.rates, default=0.0)
    if curve.is_whole and peak > 0:
        updates *= sum(curve.rates) / len(curve.rates) / peak
    floor = TOO_LITTLE * abs(trial.start)
    change = abs(trial.start - trial.end)
    rounding = 4 * torch.finfo(torch.float32).eps * abs(trial.start)
    moved = change / len(trial.losses) if change > rounding else 0.0
    return max(abs(trial.predicted), moved) * updates < floor


def _judge_low(
    probe: Probe, curve: Curve, trial: Trial, num_steps: int, claims: Claims
) -> None:
    """Warn if a larger rate lowers the loss that this one leaves as it is."""
    peak = max(curve.peaks)
    for factor in (1e2, 1e4, 1e6):
        if peak * factor > 1:
            return
        other, error = attempt(lambda f=factor: _try(probe, curve, f, num_steps))
        if error is not None:
            return
        if other.end < trial.start - 0.01 * abs(trial.start):
            _note_low(curve, trial, other, peak * factor, claims)
            return


def _note_low(
    curve: Curve, trial: Trial, other: Trial, rate: float, claims: Claims
) -> None:
    claims.add(
        "warn",
        "the learning rate is too low to move the weights",
        expected="a loss that changes over the run",
        actual=f"at lr {max(curve.peaks):.3g} an update should take "
        f"{trial.predicted:.2g} off a loss of {trial.start:.4g}: over the plan of "
        f"{curve.planned or '?'} updates less than {TOO_LITTLE:.0e} of it; at "
        f"{rate:.3g} the loss goes {other.start:.4g} → {other.end:.4g} in "
        f"{len(other.losses)} steps",
        fix=f"Raise lr, to about {rate:.2g}; look at what the schedule makes of it.",
    )
