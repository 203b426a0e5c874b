"""Part of R4: a BatchNorm that rests in training, with statistics nobody filled."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe

__all__ = ["judge_resting_norms"]


def judge_resting_norms(probe: Probe, claims: Claims) -> None:
    """Frozen statistics are a pretrained model's; those of a new layer say nothing."""
    probe.rewind()
    probe.set_mode(training=True)
    empty = [name for name, m in probe.model.named_modules() if _is_empty(m)]
    if not empty:
        return
    claims.add(
        "warn",
        "BatchNorm stays in eval mode in training, its running statistics never filled",
        expected="train mode, or statistics from pretrained weights",
        actual=f"{', '.join(map(repr, empty[:4]))}: mean 0 and variance 1 as at the "
        "start, so that nothing is normalised",
        fix="Leave out the .eval(), or load the pretrained statistics first.",
    )


def _is_empty(module: nn.Module) -> bool:
    if not isinstance(module, _BatchNorm) or module.training:
        return False
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        return False
    return not bool(mean.any()) and bool(torch.all(variance == 1))
