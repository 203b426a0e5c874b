"""How long a run is: steps, seconds, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nbutils.environment.price import price_of
from nbutils.preflight.estimates.pace import Pace
from nbutils.train.plan import make_plan

__all__ = ["RunEstimate", "estimate_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """What a run takes.

    Args:
        num_samples: Training samples; none where they are not known.
        steps_per_epoch: Updates of one pass; none where that is not known.
        steps: Updates of the whole run; none where that is not known.
        epoch_s: Seconds of one pass with its evaluation.
        total_s: Seconds of the run.
        cost: Price of that time, where an hour's price is known.
        pace: What it was computed from.
        is_capped: Whether ``max_hours`` ends the run before.
    """

    num_samples: int | None
    steps_per_epoch: int | None
    steps: int | None
    epoch_s: float | None
    total_s: float | None
    cost: float | None
    pace: Pace
    is_capped: bool = False


def estimate_run(
    config: Any,
    pace: Pace,
    num_train: int | None,
    num_val: int = 0,
    price: float | None = None,
) -> RunEstimate:
    """Steps, time and price of a run at a pace.

    Args:
        config: The run's settings.
        pace: Seconds of a step and of reading.
        num_train: Training samples; none where they are not known.
        num_val: Validation samples, looked at once an epoch.
        price: Price of an hour.
    """
    size, workers = config.data.batch_size, config.data.num_workers
    num_batches = None
    if num_train is not None:
        num_batches = max(1, num_train // size if config.data.drop_last else 0)
        if not config.data.drop_last:
            num_batches = math.ceil(num_train / size)
    plan = make_plan(config, num_batches)
    batch_s = pace.batch_s(size, workers)
    passes = config.train.accumulation
    evaluation_s = pace.evaluation_s(num_val, size, workers)
    epoch_s = None if num_batches is None else num_batches * batch_s + evaluation_s
    total_s = None
    if plan.steps is not None:
        epochs = plan.steps / plan.steps_per_epoch if plan.steps_per_epoch else 0
        total_s = plan.steps * passes * batch_s + math.ceil(epochs) * evaluation_s
    limit_s = 3600 * (config.train.max_hours or math.inf)
    is_capped = total_s is not None and total_s > limit_s
    if total_s is not None:
        total_s = min(total_s, limit_s)
    return RunEstimate(
        num_samples=num_train,
        steps_per_epoch=plan.steps_per_epoch,
        steps=plan.steps,
        epoch_s=epoch_s,
        total_s=total_s,
        cost=None if price is None or total_s is None else price_of(total_s, price),
        pace=pace,
        is_capped=is_capped,
    )
