"""Part of R4: a BatchNorm that rests in training, with statistics nobody filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe

__all__ = ["judge_resting_norms"]

FAR = 10.0


def judge_resting_norms(probe: Probe, claims: Claims) -> None:
    """Frozen statistics are a pretrained model's; those of a new layer say nothing.

    Where what arrives is of unit size about, a norm that does nothing does no harm.
    """
    batch = probe.fresh(probe.data.batch("train"))
    probe.rewind()
    probe.set_mode(training=True)
    empty = {n: m for n, m in probe.model.named_modules() if _is_empty(m)}
    sizes: dict[str, float] = {}
    handles = [
        module.register_forward_pre_hook(_measure(name, sizes))
        for name, module in empty.items()
    ]
    if not handles:
        return
    try:
        probe.forward(batch, training=True)
    finally:
        for handle in handles:
            handle.remove()
    far = [f"'{n}' gets values of {s:.3g}" for n, s in sizes.items() if s > FAR]
    if not far:
        claims.show([("norms in eval mode, statistics empty", ", ".join(empty))])
        return
    claims.add(
        "warn",
        "BatchNorm stays in eval mode in training, its running statistics never filled",
        expected="train mode, or statistics from pretrained weights",
        actual=f"{'; '.join(far[:4])}; mean 0 and variance 1 are a new layer's",
        fix="Leave out the .eval(), or load the pretrained statistics first.",
    )


def _measure(name: str, sizes: dict[str, float]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            mean_square = inputs[0].detach().double().square().mean()
            sizes[name] = float(mean_square.sqrt())

    return hook


def _is_empty(module: nn.Module) -> bool:
    if not isinstance(module, _BatchNorm) or module.training:
        return False
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        return False
    return not bool(mean.any()) and bool(torch.all(variance == 1))
