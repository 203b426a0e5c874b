"""Part of R10: outputs can get to where the targets are before the run ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe
from nbutils.train.plan import make_plan

__all__ = ["judge_reachable"]

ERRORS = (
    "mean squared error",
    "mean absolute error",
    "smooth absolute error",
    "Huber loss",
)
FAR = 30.0
"""Distance from outputs to targets, in sizes of the outputs, that is worth a look."""
MAX_POWER = 6


def judge_reachable(
    probe: Probe,
    batch: Any,
    moved: Mapping[str, tuple[Tensor, Tensor]],
    num_steps: int,
    claims: Claims,
) -> None:
    """Judge targets far from zero by the pace of some steps as the run will take them.

    An output of ``L`` layers whose weights each move at a steady pace, as Adam's do,
    moves with the ``L``-th power of the steps at most; one power is added for doubt.

    Args:
        probe: The task under test.
        batch: What the steps were taken on.
        moved: Outputs before and after, by path.
        num_steps: How many steps lie between.
        claims: Takes the outcome.
    """
    planned = make_plan(probe.config, probe.data.loader("train").num_batches).steps
    if len(moved) != 1 or planned is None or num_steps < 1:
        return
    call = _call(probe, batch)
    ((before, after),) = moved.values()
    if call is None or before.shape != after.shape:
        return
    targets = call.targets.double()
    needed = float((targets.mean() - before.double().mean()).abs())
    size = float(before.double().square().mean().sqrt())
    if needed < FAR * max(size, 1e-12) or needed < FAR * 0.1:
        return
    pace = float((after.double().mean() - before.double().mean()).abs())
    power = min(_num_layers(probe.model) + 1, MAX_POWER)
    reach = pace * max(planned / num_steps, 1.0) ** power
    if reach > 0.5 * needed:
        return
    if not {"epochs", "max_steps"} & set(probe.config.changes()):
        # Another loop than ours may train longer, or with another rate.
        text = f"near {float(targets.mean()):.4g}, moved by {pace:.2g}"
        claims.show([(f"targets far from the outputs, after {num_steps} steps", text)])
        return
    claims.add(
        "warn",
        "the targets are out of reach: their scale is far from that of the outputs",
        expected="targets of the outputs' scale, such as (y - mean) / std of train",
        actual=f"targets near {float(targets.mean()):.4g}, outputs near {size:.2g}; "
        f"{num_steps} steps moved them by {pace:.2g}, and {planned:,} are planned",
        fix="Standardise the targets and undo it where predictions are read; or begin "
        "with the targets' mean as bias of the last layer.",
    )


def _call(probe: Probe, batch: Any) -> Any:
    """The one loss by distance, as the run calls it."""
    probe.rewind()
    moved = probe.fresh(batch)
    with torch.no_grad(), probe.recording() as recorder:
        probe.terms(probe.forward(moved, training=True), moved)
    probe.rewind()
    calls = recorder.losses
    is_single = len(calls) == 1 and calls[0].kind in ERRORS
    return calls[0] if is_single else None


def _num_layers(model: nn.Module) -> int:
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    return len(weights)
