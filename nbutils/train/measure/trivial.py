"""Trivial predictors: what is reached without looking at the input."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from nbutils.data.rng import preserved_rng
from nbutils.data.sources import columns_of
from nbutils.data.task import Task

__all__ = ["Kind", "Trivial", "declared", "kind_of", "trivial_predictor"]

Kind = Literal["classes", "binary", "values"]

_MAX_READ = 512
_MAX_READ_S = 3.0


@dataclass(frozen=True)
class Trivial:
    """A predictor that needs no model.

    Attributes:
        name: Short, for a table.
        how: What it does, and from which data, in a sentence.
        outputs: Its outputs for a batch.
    """

    name: str
    how: str
    outputs: Callable[[Any], Any]


def kind_of(outputs: Any, batch: Any) -> Kind | None:
    """What a task predicts, told by its outputs and the second part of a pair."""
    target = batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    if not isinstance(outputs, Tensor) or not isinstance(target, Tensor):
        return None
    if not outputs.is_floating_point() or not len(target):
        return None
    is_whole = not target.is_floating_point() and not target.is_complex()
    if is_whole and outputs.ndim == 2 and target.ndim == 1 and outputs.shape[1] > 1:
        fits = int(target.min()) >= 0 and int(target.max()) < outputs.shape[1]
        return "classes" if fits and len(outputs) == len(target) else None
    if outputs.numel() != target.numel() or len(outputs) != len(target):
        return None
    is_flag = bool(((target == 0) | (target == 1)).all())
    if is_flag:
        return "binary"
    return "values" if target.is_floating_point() else None


def declared(task: Task) -> tuple[list[Trivial], dict[str, float]]:
    """The task's own baselines: those that give outputs, and losses as numbers."""
    given = task.baselines
    named = given if isinstance(given, Mapping) else {"baseline": given}
    found: list[Trivial] = []
    losses: dict[str, float] = {}
    for name, value in named.items():
        if callable(value):
            found.append(Trivial(str(name), "a baseline that the task declares", value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            losses[str(name)] = float(value)
    return found, losses


def trivial_predictor(
    task: Task, outputs: Tensor, kind: Kind, loss_of: Callable[[Trivial], float]
) -> Trivial | str:
    """The constant answer that the training targets suggest, or why there is none.

    For classes it answers their shares, so it always says the most frequent one; for
    values it answers their mean. Whether the loss wants shares as they are or as
    logits is told by which of the two it likes better.

    Args:
        task: Its training targets are read, or some of them.
        outputs: Of the model for a batch, for their shape.
        kind: What is predicted.
        loss_of: The loss of a predictor on that batch.
    """
    found = _train_targets(task)
    if isinstance(found, str):
        return found
    targets, source = found
    if kind == "classes":
        made = _class_shares(task, outputs, targets, source)
    else:
        made = _mean(outputs, targets, source, is_share=kind == "binary")
    if isinstance(made, str):
        return made
    name, how, rows = made
    forms = [Trivial(name, how, _constant(row, outputs)) for row in rows]
    losses = [loss_of(form) for form in forms]
    if not any(map(math.isfinite, losses)):  # it takes none of them on the host
        are_shares = bool(((outputs >= 0) & (outputs <= 1)).all())
        return forms[-1] if are_shares else forms[0]
    return forms[losses.index(min(losses))]


_Made = tuple[str, str, list[Tensor]]


def _class_shares(
    task: Task, outputs: Tensor, targets: Tensor, source: str
) -> _Made | str:
    num_classes = outputs.shape[1]
    if targets.is_floating_point() or targets.ndim != 1:
        return "the training targets are no class numbers"
    if int(targets.min()) < 0 or int(targets.max()) >= num_classes:
        return f"the training targets are not all within 0 .. {num_classes - 1}"
    counts = torch.bincount(targets.long(), minlength=num_classes).double()
    shares = (counts + 1) / (counts.sum() + num_classes)  # Laplace: no share of zero
    names = task.extras.get("class_names")
    top = int(counts.argmax())
    said = names[top] if names and top < len(names) else f"class {top}"
    how = f"always says '{said}', the most frequent in {source}, at their class shares"
    return "most frequent class", how, [shares.log(), shares]


def _mean(
    outputs: Tensor, targets: Tensor, source: str, *, is_share: bool
) -> _Made | str:
    mean = targets.double().mean(0)
    if mean.numel() not in (1, outputs[0].numel()):
        return f"the training targets have shape {tuple(targets.shape[1:])} a sample"
    told = f"{float(mean):.4g}, " if mean.numel() == 1 else ""
    if not is_share:
        return "mean", f"always answers {told}the mean of {source}", [mean]
    answer = mean.clamp(1e-6, 1 - 1e-6)
    how = f"always answers {told}the share of ones in {source}"
    return "share of ones", how, [answer.logit(), answer]


def _constant(row: Tensor, outputs: Tensor) -> Callable[[Any], Tensor]:
    """``row`` for each sample of a batch, in the form of ``outputs``."""
    inner, is_one = outputs.shape[1:], row.numel() == 1
    row = row.to("cpu").to(outputs.dtype)
    row = row.reshape(()) if is_one else row.reshape(inner)

    def answer(batch: Any) -> Tensor:
        target = batch[1]
        return row.to(target.device).expand(len(target), *inner).clone()

    return answer


def _train_targets(task: Task) -> tuple[Tensor, str] | str:
    """Targets of the training data and where they are from; or why there are none."""
    data = task.train_data
    data = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(data, IterableDataset):
        return "the training data is a stream, which is not read again"
    columns = columns_of(data)
    if columns is not None:
        tensors, rows = columns
        if not isinstance(tensors, tuple) or len(tensors) != 2:
            return "the training samples are no pairs of input and target"
        found = tensors[1] if rows is None else tensors[1][list(rows)]
        return found, f"all {len(found):,} training targets"
    with preserved_rng():
        return _listed(data) or _read(data)


def _listed(data: Any) -> tuple[Tensor, str] | None:
    """Labels that a dataset lists beside its samples; a few are compared with them."""
    for name in ("targets", "labels"):
        listed = getattr(data, name, None)
        if listed is None or not hasattr(listed, "__len__"):
            continue
        if len(listed) != len(data) or isinstance(listed, (str, Mapping)):
            continue
        try:
            found = torch.as_tensor(listed)
            same = all(
                torch.equal(torch.as_tensor(data[i][1]), found[i])
                for i in {0, len(data) // 2, len(data) - 1}
            )
        except (TypeError, ValueError, RuntimeError, LookupError):
            continue  # not a plain list of numbers: the samples are read instead
        if same:
            return found, f"all {len(found):,} training targets"
    return None


def _read(data: Any) -> tuple[Tensor, str] | str:
    until = time.perf_counter() + _MAX_READ_S
    order = np.random.default_rng(0).permutation(len(data))[:_MAX_READ]
    found: list[Tensor] = []
    for index in order.tolist():
        sample = data[index]
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            return "the training samples are no pairs of input and target"
        target = sample[1]
        if not isinstance(target, (int, float, Tensor, np.ndarray, np.generic)):
            return f"the training targets are of type {type(target).__name__}"
        found.append(torch.as_tensor(target))
        if time.perf_counter() > until:
            break
    if len({value.shape for value in found}) != 1:
        return "the training targets have different shapes"
    return torch.stack(found), f"{len(found):,} training targets drawn at random"
