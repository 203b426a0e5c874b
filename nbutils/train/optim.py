"""Builds the optimizer that the configuration names."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nbutils.errors import ConfigError, EnvironmentProblem

__all__ = ["build_optimizer", "can_decide_on_device"]

EIGHT_BIT = {
    "adam8bit": "Adam8bit",
    "adamw8bit": "AdamW8bit",
    "paged_adamw8bit": "PagedAdamW8bit",
}


def build_optimizer(model: nn.Module, config: Any, task: Any = None) -> Optimizer:
    """The task's own optimizer, or the configured one over trainable parameters.

    A loss that is a module with parameters, such as learnt weights of its terms,
    trains with the model.

    Raises:
        ConfigError: The model has nothing to train, or ``make_optimizer`` returned
            what the loop cannot step.
        EnvironmentProblem: An 8-bit optimizer without a fitting bitsandbytes.
    """
    if task is not None and task.make_optimizer is not None:
        return _checked(task.make_optimizer(model))
    loss = task.loss if task is not None else None
    extra = loss.parameters() if isinstance(loss, nn.Module) else ()
    parameters = [p for p in [*model.parameters(), *extra] if p.requires_grad]
    if not parameters:
        raise ConfigError(
            ["the model has no trainable parameter; set requires_grad on some."]
        )
    optim = config.optim
    common = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    if optim.optimizer in EIGHT_BIT:
        return _eight_bit(parameters, optim.optimizer, common, optim.betas)
    fused = _can_fuse(parameters)
    if optim.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, **common, momentum=optim.momentum, fused=fused
        )
    family = torch.optim.AdamW if optim.optimizer == "adamw" else torch.optim.Adam
    return family(parameters, **common, betas=tuple(optim.betas), fused=fused)


def can_decide_on_device(optimizer: Optimizer) -> bool:
    """Whether the update honours ``found_inf`` and ``grad_scale`` by itself."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _checked(made: Any) -> Optimizer:
    """What ``make_optimizer`` returned, if it can be stepped without a closure."""
    if isinstance(made, (list, tuple)):
        raise ConfigError(
            [
                f"make_optimizer returned a {type(made).__name__} of {len(made)}; "
                "one optimizer is expected, and several, as for a GAN, are not "
                "supported. Give one over all parameters, with a group for each part."
            ]
        )
    if not (hasattr(made, "param_groups") and callable(getattr(made, "step", None))):
        raise ConfigError(
            [
                f"make_optimizer returned {made!r:.60} ({type(made).__name__}); a "
                "torch.optim.Optimizer is expected. Return it from the function."
            ]
        )
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            [
                f"{type(made).__name__}.step needs a closure, which evaluates the loss "
                "several times a step; an optimizer that steps without one is "
                "expected, such as AdamW or SGD."
            ]
        )
    return made


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    supported = {"cpu", "cuda", "mps", "xpu"}
    return all(p.is_floating_point() and p.device.type in supported for p in parameters)


def _eight_bit(
    parameters: list[nn.Parameter],
    name: str,
    common: dict[str, Any],
    betas: tuple[float, float],
) -> Optimizer:
    try:
        import bitsandbytes.optim as low_memory
    except ImportError as error:
        raise EnvironmentProblem(
            f"optimizer {name!r} needs bitsandbytes, which cannot be imported "
            f"({error}). Install it: pip install 'bitsandbytes>=0.50'; "
            "or use optimizer='adamw'."
        ) from error
    family = getattr(low_memory, EIGHT_BIT[name])
    return family(parameters, **common, betas=tuple(betas))
