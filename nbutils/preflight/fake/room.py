"""Whether this machine has room to run a model at all, before anything is copied."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nbutils.environment.device import resolve_device
from nbutils.environment.limits import available_memory_bytes
from nbutils.errors import EnvironmentProblem
from nbutils.preflight.fake.plan import optimizer_bytes, size_text

__all__ = ["TooLarge", "model_bytes", "obstacle"]


class TooLarge(Exception):
    """The model cannot be run on this machine; the message says why."""


def model_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, tied ones once."""
    tensors = (*model.parameters(), *model.buffers())
    return sum(t.numel() * t.element_size() for t in tensors if not is_lazy(t))


def obstacle(task: Any, config: Any) -> str:
    """Why the checks cannot run the model here; empty if they can.

    They keep a copy of the weights, to put them back, and take steps as the run would.
    """
    model = task.model
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        return "the model is on the meta device: it has shapes and no weights"
    weights = model_bytes(model)
    trainable = [p for p in model.parameters() if p.requires_grad and not is_lazy(p)]
    grads = sum(p.numel() * p.element_size() for p in trainable)
    optim = config.optim
    state = optimizer_bytes(optim.optimizer, trainable, momentum=optim.momentum)
    device = _device(config)
    stepping = 2 * grads + state  # gradients, state, and weights to compare with
    needs = [(weights + stepping, available_memory_bytes(), "memory")]
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        needs = [
            (weights, available_memory_bytes(), "memory"),
            (2 * weights + stepping, free, f"{device}"),
        ]
    for need, free, where in needs:
        if need > free:
            return (
                f"the model is too large for this machine: {size_text(weights)} of "
                f"weights; trying it takes {size_text(need)} more of {where}, and "
                f"{size_text(free)} are free"
            )
    return ""


def _device(config: Any) -> torch.device:
    try:
        return resolve_device(config.train.device)[0]
    except EnvironmentProblem:
        return torch.device("cpu")  # another check reports the device
