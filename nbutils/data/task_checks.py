"""What is wrong with the arguments of a task, one sentence each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nbutils.data.loss import is_torch_loss

__all__ = ["find_problems"]

_SIGNATURES = {
    "forward": ("forward_function", ("model", "batch")),
    "collate": ("collate", ("samples",)),
    "count_targets": ("count_targets", ("batch",)),
    "make_optimizer": ("make_optimizer", ("model",)),
    "make_schedule": ("make_schedule", ("optimizer", "planned_steps")),
}


def find_problems(task: Any) -> list[str]:
    """Every problem of a task's arguments other than its data and contract."""
    problems = _model_problems(task.model) + _loss_problems(task.loss)
    for name, (attribute, arguments) in _SIGNATURES.items():
        function = getattr(task, attribute)
        if function is not None:
            problems += _call_problems(name, function, arguments)
    problems += _metrics_problems(task.metrics)
    problems += _declares_problems(task.declares)
    return problems + _weights_problems(task.loss_weights)


def _model_problems(model: Any) -> list[str]:
    if isinstance(model, nn.Module):
        return []
    if isinstance(model, type) and issubclass(model, nn.Module):
        name = model.__name__
        return [f"model is the class {name}; give an object: {name}(...)."]
    return [f"model is {type(model).__name__}; it must be a torch.nn.Module."]


def _loss_problems(loss: Any) -> list[str]:
    if isinstance(loss, type):
        return [
            f"loss is the class {loss.__name__}; give an object: {loss.__name__}()."
        ]
    if not is_torch_loss(loss):
        return _call_problems("loss", loss, ("outputs", "batch"))
    options = getattr(loss, "keywords", {})
    reduction = options.get("reduction", getattr(loss, "reduction", "mean"))
    if reduction in ("mean", "batchmean"):
        return []
    return [
        f"loss has reduction={reduction!r}; it must be 'mean', since accumulation "
        "weighs each batch by its number of targets."
    ]


def _call_problems(name: str, function: Any, arguments: Sequence[str]) -> list[str]:
    wanted = f"{name}({', '.join(arguments)})"
    if not callable(function):
        return [f"{name} is {type(function).__name__}; it must be a function {wanted}."]
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return []  # a builtin without a signature
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return [f"{name}{signature} cannot be called as {wanted}: {error}."]
    return []


def _metrics_problems(metrics: Any) -> list[str]:
    if metrics is None:
        return []
    if not isinstance(metrics, Mapping):
        return _call_problems("metrics", metrics, ("outputs", "batch"))
    found: list[str] = []
    for name, metric in metrics.items():
        found += _call_problems(f"metrics[{name!r}]", metric, ("outputs", "batch"))
    return found


def _declares_problems(declares: Any) -> list[str]:
    if isinstance(declares, str):
        return [f"declares is {declares!r}; put it in a tuple: ({declares!r},)."]
    if isinstance(declares, (tuple, list, set, frozenset)):
        odd = [fact for fact in declares if not isinstance(fact, str)]
        return [f"declares has {fact!r:.80}; each fact must be a text." for fact in odd]
    return [f"declares is {type(declares).__name__}; it must be a tuple of texts."]


def _weights_problems(weights: Any) -> list[str]:
    if weights is None:
        return []
    if not isinstance(weights, Mapping):
        return [
            f"loss_weights is {type(weights).__name__}; it must be a dict of numbers."
        ]
    return [
        f"loss_weights[{name!r}] is {value!r:.80}; it must be a finite number."
        for name, value in weights.items()
        if isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
    ]
