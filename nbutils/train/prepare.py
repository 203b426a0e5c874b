"""Brings a model into the form the configuration asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nbutils.data.batch import to_device
from nbutils.data.loaders import make_loader
from nbutils.data.task import Task
from nbutils.train.activations import set_checkpointing

__all__ = ["count_parameters", "prepare_model"]


def prepare_model(task: Task, config: Any, device: torch.device) -> None:
    """Move, lay out, checkpoint and compile ``task.model``, in place.

    Raises:
        ConfigError: Gradient checkpointing finds nothing to recompute.
    """
    model = task.model
    options = config.model
    model.to(device)
    if isinstance(task.loss, nn.Module):
        task.loss.to(device)  # class weights and the like
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        _materialise(task, config, device)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_checkpointing(model, options)
    if options.compile and not _is_compiled(model):
        model.compile()


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def _materialise(task: Task, config: Any, device: torch.device) -> None:
    """One forward pass, so that lazy parameters get their shapes."""
    loader = make_loader(task, "train", config.replace(num_workers=0), device=device)
    with torch.no_grad():
        task.forward(task.model, to_device(next(iter(loader)), device))


def _is_compiled(model: nn.Module) -> bool:
    return getattr(model, "_compiled_call_impl", None) is not None
