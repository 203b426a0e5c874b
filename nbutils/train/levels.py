"""What a constant answer would reach, where that can be told without a forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from nbutils.data.sources import columns_of
from nbutils.data.task import Task
from nbutils.monitor.watchdogs.baseline import Level

__all__ = ["trivial_levels"]

MAX_LABELS = 5_000_000
MAX_CLASSES = 1_000_000


def trivial_levels(task: Task) -> list[Level]:
    """Losses of trivial predictors: the task's own baselines, else from its targets.

    Targets are looked at only where they lie in memory, and the loss is taken for what
    it is only where it is one of torch's own. Of another loss over class labels, the
    uniform and the best constant guess are levels to be recognised, not to be beaten.
    """
    given = task.baselines
    if isinstance(given, Mapping):
        known = [
            Level(float(value), f"the baseline {name!r}")
            for name, value in given.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        ]
        return sorted(known, key=lambda level: level.value)[:1]
    targets = None if task.val_data is None else _targets(task.val_data)
    if targets is None or targets.is_complex():
        return []
    if targets.layout != torch.strided or not 0 < targets.numel() <= MAX_LABELS:
        return []
    return _of_torch_loss(task.loss, targets) or _of_labels(task.loss, targets)


def _of_torch_loss(loss: Any, targets: Tensor) -> list[Level]:
    """The best constant answer of a plain torch loss."""
    if not isinstance(loss, nn.modules.loss._Loss) or loss.reduction != "mean":
        return []
    if isinstance(loss, nn.CrossEntropyLoss) and not targets.is_floating_point():
        if loss.weight is not None or loss.label_smoothing:
            return []
        shares = _shares(targets[targets != loss.ignore_index])
        return [Level(_entropy(shares), "the mix of classes, whatever the input,")]
    columns = targets.flatten(1) if targets.ndim > 1 else targets[:, None]
    columns = columns.double()
    if isinstance(loss, nn.BCEWithLogitsLoss) and loss.pos_weight is None:
        share = columns.mean(0)
        value = _entropy(torch.stack([share, 1 - share])) / columns.shape[1]
        return [] if loss.weight is not None else [Level(value, "each label's share")]
    if isinstance(loss, nn.MSELoss):
        return [Level(float(columns.var(0, correction=0).mean()), "the mean target")]
    if isinstance(loss, nn.L1Loss):
        error = (columns - columns.median(0).values).abs().mean()
        return [Level(float(error), "the median target")]
    return []


def _of_labels(loss: Any, targets: Tensor) -> list[Level]:
    """Two levels that a cross-entropy written by hand would show."""
    if isinstance(loss, nn.modules.loss._Loss) or targets.is_floating_point():
        return []
    shares = _shares(targets[targets >= 0])
    if shares.numel() < 2:
        return []
    uniform = math.log(shares.numel())
    return [
        Level(_entropy(shares), "the mix of classes, whatever the input,", True),
        Level(uniform, f"a guess among {shares.numel()} classes", True),
    ]


def _shares(labels: Tensor) -> Tensor:
    is_class = labels.numel() and labels.min() >= 0 and labels.max() < MAX_CLASSES
    if not is_class:
        return torch.ones(1, dtype=torch.float64)
    counts = torch.bincount(labels.flatten().long()).double()
    return counts / counts.sum()


def _entropy(shares: Tensor) -> float:
    return float(torch.special.entr(shares.double()).sum())


def _targets(data: Any) -> Tensor | None:
    """Targets in memory: the second of two columns, or what torchvision calls so."""
    if isinstance(data, DataLoader):
        data = data.dataset
    found = columns_of(data)
    if found is not None:
        columns, rows = found
        if isinstance(columns, dict) or len(columns) != 2:
            return None
        return columns[1].cpu() if rows is None else columns[1].cpu()[list(rows)]
    if isinstance(data, Subset):
        inner = _targets(data.dataset)
        return None if inner is None else inner[list(data.indices)]
    targets = getattr(data, "targets", None)
    is_labels = isinstance(targets, list) and all(type(t) is int for t in targets)
    if isinstance(targets, Tensor) or is_labels:
        labels = torch.as_tensor(targets)
        has_one_each = labels.ndim > 0 and len(labels) == len(data)
        return labels.cpu() if has_one_each else None
    return None
