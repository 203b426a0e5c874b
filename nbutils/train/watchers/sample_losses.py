"""The loss of each sample of a batch, where the task's loss gives it exactly."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.loss import is_torch_loss, smoothed
from nbutils.data.task import Task

__all__ = ["SampleLosses", "sample_losses"]

SampleLosses = Callable[[Any, Any], Tensor | None]


def sample_losses(task: Task, label_smoothing: float = 0.0) -> SampleLosses | None:
    """A function (outputs, batch) -> losses ``(B,)``; none where there is no exact one.

    NaN means that a sample has no target; a loss that is NaN is given as infinite.

    Losses of torch that take a mean are computed without it. A loss of your own can
    have an attribute ``sample_losses``: a function that gives them.

    Args:
        task: Whose loss it is.
        label_smoothing: What the run smooths labels by, if the task's loss lets it.
    """
    own: Any = getattr(task.loss, "sample_losses", None)
    if own is not None:
        return functools.partial(_nonfinite_as_inf, own)
    loss: Any = task.loss
    if label_smoothing and task.config is None:
        loss = smoothed(loss, label_smoothing) or loss
    if not is_torch_loss(loss) or not _takes_mean(loss):
        return None
    if isinstance(loss, nn.Module):
        single: Any = copy.copy(loss)  # shares its weights
        single.reduction = "none"
    else:
        single = functools.partial(loss, reduction="none")
    ignored = _ignored_index(loss)
    return functools.partial(_of_samples, single, ignored)


def _of_samples(
    single: Callable[[Any, Any], Tensor], ignored: int | None, outputs: Any, batch: Any
) -> Tensor | None:
    """The mean over each sample's own targets; none if shapes leave a doubt."""
    is_pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not is_pair or not isinstance(outputs, Tensor):
        return None
    targets = batch[1]
    if not isinstance(targets, Tensor) or not targets.ndim:
        return None
    losses = single(outputs, targets)
    is_index = ignored is not None and not targets.is_floating_point()
    shape = targets.shape if is_index or ignored is None else None
    if shape is None:  # class probabilities (B, C, ...)
        shape = targets.shape[:1] + targets.shape[2:]
    if losses.shape != shape or not losses.ndim or losses.is_complex():
        return None
    flat = losses.reshape(len(losses), -1).nan_to_num(nan=torch.inf, posinf=torch.inf)
    if not is_index:
        return flat.mean(1)
    counted = (targets != ignored).reshape(len(losses), -1)
    return flat.sum(1) / counted.sum(1)  # 0 / 0 for a sample without a target


def _nonfinite_as_inf(
    own: Callable[[Any, Any], Tensor], outputs: Any, batch: Any
) -> Tensor:
    return own(outputs, batch).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _takes_mean(loss: Any) -> bool:
    if isinstance(loss, nn.Module):
        return getattr(loss, "reduction", None) == "mean"
    while isinstance(loss, functools.partial):
        if loss.args or loss.keywords.get("reduction", "mean") != "mean":
            return False
        loss = loss.func
    names = getattr(getattr(loss, "__code__", None), "co_varnames", ())
    return "reduction" in names


def _ignored_index(loss: Any) -> int | None:
    """The label that a loss over classes leaves out; none for another loss."""
    if isinstance(loss, nn.Module):
        return getattr(loss, "ignore_index", None)
    found: int | None = None
    while isinstance(loss, functools.partial):
        found = loss.keywords.get("ignore_index") if found is None else found
        loss = loss.func
    is_over_classes = loss in (nn.functional.cross_entropy, nn.functional.nll_loss)
    default = -100
    return (default if found is None else found) if is_over_classes else None
