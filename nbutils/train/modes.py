"""Train mode as the user wants it, with the layers that rest."""

from __future__ import annotations

from torch import nn

__all__ = ["enter_training"]


def enter_training(model: nn.Module) -> bool:
    """Put ``model`` into train mode; layers that rest while it is in it rest on.

    A ``train()`` of the model's own, the usual way to keep BatchNorm frozen, is called
    even where the model is in train mode already: a new model is, and it may never have
    been called.

    Returns:
        Whether the whole model was in eval mode.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
        >>> enter_training(model), [layer.training for layer in model]
        (False, [True, False])
    """
    was_evaluating = not model.training
    resting = [] if was_evaluating else [m for m in model.modules() if not m.training]
    if was_evaluating or any(_has_own(module) for module in model.modules()):
        model.train()
    for module in resting:
        module.training = False
    return was_evaluating


def _has_own(module: nn.Module) -> bool:
    return type(module).train is not nn.Module.train or "train" in vars(module)
