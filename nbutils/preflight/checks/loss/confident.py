"""Part of R5: being sure of the wrong class costs more than knowing nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.loss.targets import Pair
from nbutils.preflight.free_outputs import FreeOutputs
from nbutils.preflight.probe import attempt

__all__ = ["judge_confident"]

SURE = (3.0, 6.0, 12.0)
SHARE = 0.1


def judge_confident(free: FreeOutputs, pair: Pair, claims: Claims) -> bool:
    """Whether the loss of wrong answers vanishes as they grow sure; a warning then.

    Weights in the batch may turn the sign of single samples, so that the mean is
    judged, and only where right answers cost next to nothing, too.
    """
    if free.uses.get(pair.path) != "rows":
        return False
    found, error = attempt(lambda: _losses(free, pair))
    if error is not None or found is None:
        return False
    unsure, right, wrong = found
    if not all(map(math.isfinite, (unsure, *right, *wrong))) or unsure <= 0:
        return False
    vanishes = wrong[-1] < SHARE * unsure and wrong == sorted(wrong, reverse=True)
    if not vanishes or not 0 <= right[-1] < SHARE * unsure or wrong[-1] < 0:
        return False
    claims.add(
        "warn",
        "the loss vanishes where the model is sure of the wrong class",
        expected="a loss that grows as wrong answers grow sure",
        actual=f"{unsure:.4g} without knowledge; all wrong by logits of "
        + ", ".join(f"{s:g}: {x:.3g}" for s, x in zip(SURE, wrong, strict=True)),
        fix="Look at the factor before the loss: a focal loss has (1 - p)**gamma, with "
        "p the probability of the true class.",
    )
    return True


def _losses(
    free: FreeOutputs, pair: Pair
) -> tuple[float, list[float], list[float]] | None:
    """Loss without knowledge, of right answers, of wrong ones."""
    start, axis = free.start[pair.number], pair.axis
    if axis is None or pair.column is not None or start.shape[axis] < 2:
        return None
    size = start.shape[axis]
    target = pair.target.clamp(min=0)
    if int(pair.target.min()) < 0 or int(target.max()) >= size:
        return None
    origin = free.origins[pair.number]
    kind = origin.kind if origin is not None else ""
    if kind not in ("", "softmax", "log_softmax"):
        return None

    def value(classes: Tensor | None, scale: float) -> float:
        outputs = torch.zeros_like(start)
        if classes is not None:
            outputs.scatter_(axis, classes.unsqueeze(axis), scale)
        if kind == "softmax":
            outputs = outputs.softmax(axis)
        elif kind == "log_softmax":
            outputs = outputs.log_softmax(axis)
        return free.value(free.with_output(pair.number, outputs, None))

    return (
        value(None, 0.0),
        [value(target, scale) for scale in SURE],
        [value((target + 1) % size, scale) for scale in SURE],
    )
