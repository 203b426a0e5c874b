"""Part of R6: units that stay twins, and gradients that fade layer by layer."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.update.ownership import named
from nbutils.preflight.probe import Probe

__all__ = ["fading", "judge_fading", "judge_twins"]

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SAME = 1e-6
MIN_UNITS = 3
FADED = 1e-6
NUM_PARTS = 4


def judge_twins(probe: Probe, moved: set[str], claims: Claims) -> None:
    """Layers that learn, and whose units are all the same after some steps."""
    twins = [
        f"{name} ({module.weight.shape[0]} units)"
        for name, module in probe.model.named_modules()
        if isinstance(module, WEIGHTED)
        and f"{name}.weight".lstrip(".") in moved
        and _are_twins(module.weight.detach())
    ]
    if twins:
        claims.add(
            "warn",
            "symmetric initialisation: all units of a layer are the same",
            expected="units that differ from the start",
            actual=f"{named(twins)}: equal weights before and after the first steps",
            fix="Draw the weights at random, as torch does by default; a constant is "
            "for biases and norms. Equal units get equal gradients for ever.",
        )


def _are_twins(weight: Tensor) -> bool:
    if weight.shape[0] < MIN_UNITS:
        return False
    scale = float(weight.abs().max())
    return scale > 0 and float((weight - weight[:1]).abs().max()) <= SAME * scale


def fading(weights: dict[str, nn.Parameter]) -> dict[str, float]:
    """Gradient over weight, by norm, of each matrix or kernel, in their order."""
    found: dict[str, float] = {}
    for name, weight in weights.items():
        grad = weight.grad
        if weight.ndim < 2 or grad is None or grad.is_sparse:
            continue
        size = float(weight.detach().norm())
        if size > 0:
            found[name] = float(grad.norm()) / size
    return found


def judge_fading(ratios: dict[str, float], claims: Claims) -> None:
    """Warn where gradients shrink steadily towards the input, to next to nothing."""
    names = list(ratios)
    if len(names) < NUM_PARTS:
        return
    values = torch.tensor([ratios[name] for name in names], dtype=torch.float64)
    parts = [float(part.median()) for part in values.tensor_split(NUM_PARTS)]
    is_steady = all(a < b for a, b in pairwise(parts))
    first, last = float(values[0]), float(values[-1])
    if is_steady and 0 < first < FADED * last and parts[0] < FADED * parts[-1] * 10:
        claims.add(
            "warn",
            "vanishing gradients: they fade from the last layer to the first",
            expected="gradients of a like size in all layers, relative to the weights",
            actual=f"{first:.2g} of the weight in {names[0]}, "
            f"{last:.2g} in {names[-1]}",
            fix="Use ReLU or GELU in place of sigmoid or tanh, a norm or a residual "
            "path in each block, and an initialisation made for the activation.",
        )
