"""How long a run is, in windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nbutils.errors import ConfigError
from nbutils.train.state import RunState

__all__ = ["Plan", "align", "broken_promise", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Planned optimizer steps; none where the data has no length.

    Attributes:
        steps: Windows of the whole run; learning-rate schedules end here.
        steps_per_epoch: Windows of one pass.
        epochs: Passes, the last one perhaps cut short; none: until ``limit``.
        limit: Windows at which the run ends, epoch or not. Apart from ``steps``,
            since a resume may have windows of another size than those it has done.
    """

    steps: int | None
    steps_per_epoch: int | None
    epochs: int | None
    limit: int | None = None


def make_plan(config: Any, num_batches: int | None) -> Plan:
    """The plan of a run over ``num_batches`` batches an epoch.

    ``max_steps`` decides alone unless ``epochs`` was set as well: a default must
    not end a run early.

    Raises:
        ConfigError: The training data gives no batch.
    """
    train = config.train
    is_epochs_set = config.origin("epochs") != "default"
    epochs = train.epochs if is_epochs_set or train.max_steps is None else None
    if num_batches is None:
        return Plan(train.max_steps, None, epochs, train.max_steps)
    per_epoch = math.ceil(num_batches / train.accumulation)
    if per_epoch < 1:
        raise ConfigError(["the training data gives no batch; expected at least 1."])
    limits = [train.max_steps] if train.max_steps else []
    limits += [epochs * per_epoch] if epochs else []
    return Plan(min(limits), per_epoch, epochs, train.max_steps)


def align(loader: Any, state: RunState) -> str | None:
    """Tell the position inside the epoch in batches of ``loader``.

    A resume may have another batch size than the run that was saved; the samples
    that were seen stay seen, and none is seen twice.

    Returns:
        A sentence if the order of this pass is no longer the one it began with.

    Raises:
        ConfigError: They are no whole number of the new batches.
    """
    plan = getattr(loader, "plan", None)
    before, size = state.batch_size, None if plan is None else plan.batch_size
    changed = _changed_order(loader, plan, state)
    state.batch_size = size
    if not state.batch or before is None or size is None or before == size:
        return changed
    seen = before * state.batch
    if seen >= loader.num_samples:
        state.batch = loader.num_batches
    elif seen % size == 0:
        state.batch = seen // size
    else:
        raise ConfigError(
            [
                f"batch_size is {size}, and the checkpoint stands inside an epoch, "
                f"after {seen} samples: no multiple of it. Resume with batch_size="
                f"{before}, or with another divisor of {seen}."
            ]
        )
    return changed


def _changed_order(loader: Any, plan: Any, state: RunState) -> str | None:
    """What a resume inside an epoch changed of its order; none if nothing."""
    before, now = state.order, None
    if plan is not None:
        now = {"num_samples": loader.num_samples, "shuffle": bool(plan.shuffle)}
        now["seed"] = plan.seed
    state.order = now
    if not state.batch or before is None or now is None or before == now:
        return None
    told = [f"{k} was {before[k]} and is {now[k]}" for k in now if before[k] != now[k]]
    if not (before["shuffle"] or now["shuffle"] or len(told) > 1) and "seed" in told[0]:
        return None  # an order that follows from no seed
    return (
        f"{', '.join(told)}: this epoch goes on in another order than it began with, "
        "so some of its samples are seen twice and others not. The next one is whole."
    )


def broken_promise(loader: Any, state: RunState) -> str | None:
    """A sentence if a stream gave another number of batches than it announced."""
    announced = loader.num_batches
    if loader.is_counted or announced is None or state.batch == announced:
        return None
    return (
        f"the training stream announced {announced} batches an epoch and gave "
        f"{state.batch}; schedule and progress are planned for {announced}. Correct "
        "its __len__, or set max_steps."
    )
