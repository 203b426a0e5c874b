"""What a run will take, before anything of it is built: memory, time and price.

Every number says how it came about: counted on tensors without values, a bound that
follows from counted operations, or measured here. None is made up.
"""

from nbutils.preflight.estimates.feasibility import Feasibility, check_model
from nbutils.preflight.estimates.length import RunEstimate, estimate_run
from nbutils.preflight.estimates.pace import Pace, bound_pace, measure_pace

__all__ = [
    "Feasibility",
    "Pace",
    "RunEstimate",
    "bound_pace",
    "check_model",
    "estimate_run",
    "measure_pace",
]
