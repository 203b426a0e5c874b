"""The catalogue: every check, cheapest first."""

from nbutils.preflight.check import Check
from nbutils.preflight.checks.data import batches, samples, transforms, units
from nbutils.preflight.checks.loss import distributions, loss
from nbutils.preflight.checks.model import forward, parity, precision
from nbutils.preflight.checks.run import (
    accounting,
    accumulation,
    afterwards,
    drill,
    faults,
    resources,
    telemetry,
    throughput,
)
from nbutils.preflight.checks.static import (
    consumption,
    contradictions,
    environment,
    shapes,
    source,
)
from nbutils.preflight.checks.update import learning, step

__all__ = ["CATALOGUE"]

CATALOGUE: tuple[Check, ...] = (
    environment.CHECK,
    source.CHECK,
    consumption.CHECK,
    contradictions.CHECK,
    transforms.CHECK,
    batches.CHECK,
    shapes.CHECK,
    samples.CHECK,
    units.CHECK,
    forward.CHECK,
    loss.CHECK,
    distributions.CHECK,
    step.CHECK,
    precision.CHECK,
    parity.CHECK,
    learning.CHECK,
    resources.CHECK,
    throughput.CHECK,
    faults.CHECK,
    accounting.CHECK,
    accumulation.CHECK,
    drill.CHECK,
    telemetry.CHECK,
    afterwards.CHECK,
)
