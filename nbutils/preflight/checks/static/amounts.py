"""Part of S3: amounts that are too small to do what they are for."""

from __future__ import annotations

import math

from torch.nn.parameter import is_lazy

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.plan import Plan

__all__ = ["judge_amounts"]

FEW, MANY_TIMES = 5, 50
TIGHT_CLIP = 1e-2
STANDSTILL = 1e-2


def judge_amounts(probe: Probe, plan: Plan, claims: Claims) -> None:
    """Samples to validate on, and how far a clipped SGD can get in the whole run."""
    _judge_validation(probe, claims)
    _judge_travel(probe, plan, claims)


def _judge_validation(probe: Probe, claims: Claims) -> None:
    sizes, error = attempt(
        lambda: [len(probe.task.dataset(split)) for split in ("train", "val")]
    )
    if error is not None or probe.data.samples("val") is None:
        return  # no such split, or a stream
    num_train, num_val = sizes
    if 0 < num_val <= FEW and num_train >= MANY_TIMES * num_val:
        claims.add(
            "warn",
            f"only {num_val} samples to validate on: too few to tell runs apart",
            expected=f"some 10 % of {num_train:,} samples",
            actual=f"{num_val} of val, {num_train:,} of train; "
            f"{probe.config.train.monitor} moves in steps of {1 / num_val:.0%}",
            fix="Hold out more samples: the best weights are chosen by so few.",
        )


def _judge_travel(probe: Probe, plan: Plan, claims: Claims) -> None:
    """SGD moves at most ``lr * clip_norm / (1 - momentum)`` an update."""
    clip, optim = probe.config.guard.clip_norm, probe.config.optim
    is_sgd = optim.optimizer == "sgd" and probe.task.make_optimizer is None
    if not is_sgd or clip is None or clip > TIGHT_CLIP or plan.steps is None:
        return
    weights = [p for p in probe.task.model.parameters() if p.requires_grad]
    if not weights or any(is_lazy(p) or p.is_meta for p in weights):
        return
    length = math.sqrt(sum(float(p.detach().square().sum()) for p in weights))
    most = optim.lr * clip / (1 - optim.momentum) * plan.steps
    if most >= STANDSTILL * length:
        return
    claims.add(
        "warn",
        f"clip_norm = {clip:g} is so small that SGD moves nothing in the whole run",
        expected="a norm that gradients stay below most of the time, such as 1.0",
        actual=f"at most {most:.2g} in {plan.steps:,} updates, "
        f"{most / length:.1%} of the weights' norm of {length:.3g}",
        fix="Set clip_norm=1.0, or None.",
    )
