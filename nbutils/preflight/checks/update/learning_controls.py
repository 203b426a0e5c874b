"""Part of R10: the same lesson without inputs, and with targets of other samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.free_outputs import replaced
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.roles import find_roles

if TYPE_CHECKING:
    from nbutils.preflight.checks.update.learnt import Levels

__all__ = ["show_controls"]


def show_controls(
    probe: Probe,
    batch: Any,
    levels: Levels,
    teach: Callable[[Any], str],
    claims: Claims,
) -> None:
    """Learn equal inputs and turned targets; both are shown, for a reader to judge.

    Args:
        probe: The probe of the task.
        batch: What was learnt.
        levels: Which of its parts are targets.
        teach: Does the same on another batch, and tells how the loss went.
        claims: Takes the outcome.
    """
    inputs = {p.replace("sample", "batch") for p in find_roles(probe).inputs}
    found = dict(tensors(batch))
    equal: Any = batch
    for path in inputs & found.keys():
        if path in levels.targets:
            return  # what comes in is what must come out
        tensor = found[path]
        if tensor.ndim:
            equal = replaced(equal, path, tensor[:1].expand_as(tensor).clone())
    turned: Any = batch
    for path in levels.targets:
        if path in found:
            half = len(found[path]) // 2
            turned = replaced(turned, path, found[path].roll(half, 0))
    for name, other in (("inputs all alike", equal), ("targets shuffled", turned)):
        if other is batch:
            continue
        text, error = attempt(lambda other=other: teach(other))
        if error is None:
            claims.show([(f"control, {name}", text)])
