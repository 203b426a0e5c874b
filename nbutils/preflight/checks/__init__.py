"""The catalogue: every check, cheapest first."""

from nbutils.preflight.check import Check
from nbutils.preflight.checks import (
    accounting,
    accumulation,
    batches,
    drill,
    environment,
    forward,
    loss,
    resources,
    shapes,
    step,
    transforms,
)

__all__ = ["CATALOGUE"]

CATALOGUE: tuple[Check, ...] = (
    environment.CHECK,
    transforms.CHECK,
    batches.CHECK,
    shapes.CHECK,
    forward.CHECK,
    loss.CHECK,
    step.CHECK,
    resources.CHECK,
    accounting.CHECK,
    accumulation.CHECK,
    drill.CHECK,
)
