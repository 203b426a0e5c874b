"""Part of R5: a loss by distance grows with the distance."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.loss.targets import Pair
from nbutils.preflight.free_outputs import FreeOutputs
from nbutils.preflight.probe import attempt

__all__ = ["judge_direction"]

FAR = (0.0, 1.0, 2.0, 4.0, 8.0)


def judge_direction(free: FreeOutputs, pair: Pair, claims: Claims) -> bool:
    """From the targets outwards, in opposite directions, the loss must not fall.

    With rewards or weights in the batch the sign may be theirs.
    """
    if any(use == "rows" for path, use in free.uses.items() if path != pair.path):
        return False
    losses, error = attempt(lambda: _outwards(free, pair))
    if error is not None or not all(map(math.isfinite, losses)):
        return False
    size = max(abs(loss) for loss in losses) + 1e-12
    falls = [before - after for before, after in pairwise(losses)]
    if not all(fall > 1e-3 * size for fall in falls[:2]) or min(falls) < -1e-6 * size:
        return False
    claims.add(
        "warn",  # an attack, or unlearning, may want just that
        "the loss rewards being far from the targets: is its sign right?",
        expected=f"a loss that grows with the distance from '{pair.path}'",
        actual=", ".join(
            f"{loss:.4g} at {far:g} standard deviations"
            for far, loss in zip(FAR, losses, strict=True)
        ),
        fix="Turn the sign: training minimises the loss. A likelihood or a similarity "
        "needs a minus before it.",
    )
    return True


def _outwards(free: FreeOutputs, pair: Pair) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    target = pair.target
    shape = (*target.shape, 2) if target.is_complex() else tuple(target.shape)
    noise = torch.randn(shape, generator=generator)
    noise = torch.view_as_complex(noise) if target.is_complex() else noise
    spread = target.std() if target.numel() > 1 else target.abs().mean()
    step = noise.to(target.device, target.dtype) * (float(spread.abs()) or 1.0)
    found: list[float] = []
    for far in FAR:
        sides = [
            free.with_output(pair.number, target + s * far * step, pair.column)
            for s in (1, -1)
        ]
        found.append(sum(free.value(side) for side in sides) / 2)
    return found
