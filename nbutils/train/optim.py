"""Builds the optimizer that the configuration names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nbutils.errors import CheckpointError, ConfigError
from nbutils.train.groups import make_groups, trainable_parameters
from nbutils.train.low_memory import (
    EIGHT_BIT,
    Choice,
    choose_optimizer,
    eight_bit_class,
)

__all__ = [
    "SavedOptimizer",
    "build_optimizer",
    "can_decide_on_device",
    "explain_optimizer",
]

FAMILY = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
HYPERPARAMETERS = ("weight_decay", "betas", "momentum")
KERNELS = ("fused", "foreach", "capturable")  # of this process, not of the saved one


def build_optimizer(model: nn.Module, config: Any, task: Any = None) -> Optimizer:
    """The task's own optimizer, or the configured one over trainable parameters.

    A loss that is a module with parameters, such as learnt weights of its terms,
    trains with the model. Without ``lr_groups``, ``decay_groups`` and ``decay_1d``
    there is one group: the optimizer is plain torch. Where an 8-bit one cannot be,
    plain Adam or AdamW is used; :func:`explain_optimizer` tells.

    Raises:
        ConfigError: The model has nothing to train, a group's pattern has no effect,
            or ``make_optimizer`` returned what the loop cannot step.
    """
    if task is not None and task.make_optimizer is not None:
        return _checked(task.make_optimizer(model))
    loss = None if task is None else task.loss
    optim = config.optim
    parameters = trainable_parameters(model, loss)
    content: Any = make_groups(model, optim, loss)
    name = choose_optimizer(optim.optimizer, parameters).name
    common = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    if name in EIGHT_BIT:
        return eight_bit_class(name)(content, **common, betas=tuple(optim.betas))
    fused = _can_fuse(parameters)
    if name == "sgd":
        return torch.optim.SGD(content, **common, momentum=optim.momentum, fused=fused)
    return FAMILY[name](content, **common, betas=tuple(optim.betas), fused=fused)


def explain_optimizer(model: nn.Module, config: Any, task: Any) -> Choice:
    """The optimizer in effect, and why it is this one."""
    if task.make_optimizer is not None:
        return Choice("make_optimizer", "the task brings its own")
    parameters = trainable_parameters(model, task.loss)
    return choose_optimizer(config.optim.optimizer, parameters)


def can_decide_on_device(optimizer: Optimizer) -> bool:
    """Whether the update honours ``found_inf`` and ``grad_scale`` by itself."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


class SavedOptimizer:
    """An optimizer as a part of a snapshot; a state of another one is refused.

    Decay, betas and momentum come back as they were saved, unless the optimizer is
    now built with others: a resume heeds a setting that was changed.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._built = [
            {key: group[key] for key in HYPERPARAMETERS if key in group}
            for group in optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, its class, and what its groups were built with."""
        kind = type(self.optimizer).__name__
        return {**self.optimizer.state_dict(), "kind": kind, "built": self._built}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            CheckpointError: It is of another class, or of other groups.
        """
        content = dict(state)
        kind, built = content.pop("kind"), content.pop("built")
        if kind != type(self.optimizer).__name__:
            raise CheckpointError(
                f"the checkpoint holds the state of {kind}, and this run steps "
                f"{type(self.optimizer).__name__}. Set optimizer as it was, on a "
                "machine that has it, or start anew in another run_dir."
            )
        saved = _describe(content["param_groups"])
        here = _describe(self.optimizer.param_groups)
        if saved != here:
            raise CheckpointError(
                f"the checkpoint's optimizer has the groups {saved}, and this run "
                f"makes {here}. Set lr_groups, decay_groups and decay_1d as they "
                "were, or start anew in another run_dir."
            )
        own = self.optimizer.param_groups
        content["param_groups"] = [
            {**saved, **{key: group[key] for key in KERNELS if key in group}}
            for saved, group in zip(content["param_groups"], own, strict=True)
        ]
        self.optimizer.load_state_dict(content)
        _match_layout(self.optimizer)
        groups = zip(self.optimizer.param_groups, self._built, built, strict=True)
        for group, own, before in groups:
            group.update({k: v for k, v in own.items() if v != before.get(k)})


@torch.no_grad()
def _match_layout(optimizer: Optimizer) -> None:
    """Lay out loaded moments as the weights are.

    Fused kernels pair elements by their place in memory. A state that was saved in
    another layout, before ``channels_last`` was set for instance, would be paired
    wrongly on a CPU, and refused on CUDA.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.shape != weight.shape:
                continue
            if value.layout == torch.strided and value.stride() != weight.stride():
                like = torch.empty_like(weight, dtype=value.dtype, device=value.device)
                state[name] = like.copy_(value)


def _describe(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name and size of each group."""
    return [f"{g.get('name', 'all')} ({len(g['params'])} tensors)" for g in groups]


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
