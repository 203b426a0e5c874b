"""Small real tasks for tests, and bit-for-bit comparison of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nbutils.data.task import Task

__all__ = ["assert_same", "make_task", "weights"]


def make_task(num_samples: int = 40, *, seed: int = 0, **more: Any) -> Task:
    """A dropout-and-BatchNorm classifier on separable blobs."""
    torch.manual_seed(seed)
    x = torch.randn(num_samples, 6)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(16, 2),
    )
    return Task(model, nn.CrossEntropyLoss(), (x, y), (x[:16], y[:16]), **more)


def weights(task: Task) -> dict[str, torch.Tensor]:
    """A copy of the model's tensors."""
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Raise ``AssertionError`` unless both are the same, bit for bit."""
    names = left.keys() | right.keys()
    both = left.keys() & right.keys()
    different = names - {name for name in both if torch.equal(left[name], right[name])}
    if different:
        raise AssertionError(f"these differ: {sorted(different)}")
