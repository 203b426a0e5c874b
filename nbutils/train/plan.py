"""How long a run is, in windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nbutils.errors import ConfigError

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Planned optimizer steps; none where the data has no length.

    Attributes:
        steps: Windows of the whole run; learning-rate schedules end here.
        steps_per_epoch: Windows of one pass.
        epochs: Passes, the last one perhaps cut short; none: until ``steps``.
    """

    steps: int | None
    steps_per_epoch: int | None
    epochs: int | None


def make_plan(config: Any, num_batches: int | None) -> Plan:
    """The plan of a run over ``num_batches`` batches an epoch.

    ``max_steps`` decides alone unless ``epochs`` was set as well: a default must
    not end a run early.

    Raises:
        ConfigError: Data without a length, and neither limit was set.
    """
    train = config.train
    is_epochs_set = config.origin("epochs") != "default"
    epochs = train.epochs if is_epochs_set or train.max_steps is None else None
    if num_batches is None:
        return Plan(train.max_steps, None, epochs)
    per_epoch = math.ceil(num_batches / train.accumulation)
    if per_epoch < 1:
        raise ConfigError(["the training data gives no batch; expected at least 1."])
    limits = [train.max_steps] if train.max_steps else []
    limits += [epochs * per_epoch] if epochs else []
    return Plan(min(limits), per_epoch, epochs)
