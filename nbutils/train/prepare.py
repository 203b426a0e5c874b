"""Brings a model into the form the configuration asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nbutils.data.batch import to_device
from nbutils.data.loaders import make_loader
from nbutils.data.task import Task
from nbutils.errors import ConfigError

__all__ = ["count_parameters", "example_inputs", "prepare_model"]


def prepare_model(task: Task, config: Any, device: torch.device) -> None:
    """Move, lay out, checkpoint and compile ``task.model``, in place.

    Raises:
        ConfigError: The model has no switch for gradient checkpointing.
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
    if options.gradient_checkpointing:
        _checkpoint_activations(model)
    if options.compile and not _is_compiled(model):
        model.compile()


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def example_inputs(task: Task, config: Any) -> Any:
    """What ``task.model(...)`` takes, from the first batch, on the CPU.

    None where a task's own ``forward`` decides what the model takes.
    """
    if task.forward_function is not None:
        return None
    loader = make_loader(task, "train", config.replace(num_workers=0))
    batch = next(iter(loader))
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _materialise(task: Task, config: Any, device: torch.device) -> None:
    """One forward pass, so that lazy parameters get their shapes."""
    loader = make_loader(task, "train", config.replace(num_workers=0), device=device)
    with torch.no_grad():
        task.forward(task.model, to_device(next(iter(loader)), device))


def _checkpoint_activations(model: nn.Module) -> None:
    for switch in ("set_grad_checkpointing", "gradient_checkpointing_enable"):
        if hasattr(model, switch):
            getattr(model, switch)()
            return
    raise ConfigError(
        [
            "gradient_checkpointing is true, but "
            f"{type(model).__name__} has neither set_grad_checkpointing() nor "
            "gradient_checkpointing_enable(); set it to false, or give the model one."
        ]
    )


def _is_compiled(model: nn.Module) -> bool:
    return getattr(model, "_compiled_call_impl", None) is not None
