"""Part of R4: stacked layers with no activation between them are one linear map."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_linearity"]

NUM_ROWS = 4
STRETCH = 4.0
ROUNDING = 1e-5
"""A tanh that is hardly bent differs by more, once its input is stretched."""
VARIES = 1e-3


@torch.no_grad()
def judge_linearity(probe: Probe, claims: Claims) -> None:
    """Whether ``f(a) + f(b) - f(c) = f(a + b - c)`` holds for whatever samples.

    A bottleneck, as in a linear autoencoder or a low-rank layer, is one on purpose.
    """
    layers = _stacked(probe.model)
    if len(layers) < 2:
        return
    outputs, error = attempt(lambda: _outputs(probe))
    if error is not None or outputs is None or not _is_affine(outputs):
        return
    names = ", ".join(f"'{name}'" for name in layers[:4])
    claims.add(
        "warn",
        "no activation between the layers: the model is one linear map",
        expected="an activation, such as ReLU, after each hidden layer",
        actual=f"{len(layers)} layers ({names}) compute f(a) + f(b) - f(c) = "
        "f(a + b - c) to rounding, as a single layer does",
        fix="Put nn.ReLU(), or F.relu in forward, between them.",
    )


def _stacked(model: nn.Module) -> list[str]:
    """Names of the layers with weights; none where one of them is a bottleneck."""
    kinds = (nn.Linear, _ConvNd)
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
    if len(found) < 2 or (len(found) == 2 and _has_norm(model)):
        return []  # in two layers around a norm, the norm may be all that is meant
    if any(not bool(module.weight.any()) for _, module in found):
        return []  # a branch that starts at 0 and opens later
    sizes = [_sizes(module) for _, module in found]
    least = min(sizes[0][0], sizes[-1][1])
    widths = [out for _, out in sizes[:-1]]
    chained = all(
        a[1] == b[0] for a, b in pairwise(sizes)
    )  # towers side by side do not
    return [name for name, _ in found] if chained and min(widths) >= least else []


def _has_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _NormBase) for module in model.modules())


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return int(module.in_channels), int(module.out_channels)  # type: ignore[arg-type]


def _outputs(probe: Probe) -> Tensor | None:
    """Outputs for a, b, c and a + b - c; none where no such batch can be made."""
    batch: Any = probe.fresh(probe.data.batch("train"))
    if not isinstance(batch, (tuple, list)) or not isinstance(batch[0], Tensor):
        return None
    x = batch[0]
    if not x.is_floating_point() or x.shape[0] < NUM_ROWS:
        return None
    mixed = x.clone()
    mixed[:3] *= STRETCH
    mixed[3] = mixed[0] + mixed[1] - mixed[2]
    probe.rewind()
    outputs = probe.forward(type(batch)([mixed, *batch[1:]]), training=False)
    found = [t for _, t in tensors(outputs) if t.is_floating_point()]
    if len(found) != 1 or found[0].ndim < 2 or found[0].shape[0] != x.shape[0]:
        return None
    return found[0][:NUM_ROWS].double()


def _is_affine(outputs: Tensor) -> bool:
    a, b, c, mixed = outputs
    size = float(outputs.abs().max())
    if not math.isfinite(size) or float((a - c).abs().max()) <= VARIES * size:
        return False
    return float((a + b - c - mixed).abs().max()) <= ROUNDING * size
