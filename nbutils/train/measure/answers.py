"""Outputs and targets of a test set, kept on the host while they are small."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nbutils.train.measure.trivial import Kind, kind_of

__all__ = ["Answers", "right_answers", "statistic"]

MAX_BYTES = 256 * 2**20
_EXACT = 1e-6


class Answers:
    """Outputs and targets, batch after batch, up to 256 MiB.

    Attributes:
        kind: What is predicted; None where that cannot be told.
        reason: Why nothing is kept; empty while all is.
    """

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self.reason = ""
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._num_bytes = 0

    def add(self, outputs: Any, batch: Any) -> None:
        """Take a batch, unless it is no pair of tensors or there is too much."""
        if self.reason:
            return
        kind = kind_of(outputs, batch)
        if kind is None or (self._outputs and kind != self.kind):
            are_flags = {kind, self.kind} == {"binary", "values"}
            if kind is None or not are_flags:
                self._drop("outputs and targets are no tensors of a known form")
                return
            kind = "values"  # the first batch held zeros and ones by chance
        target = batch[1]
        self._num_bytes += outputs.nbytes + target.nbytes
        if self._num_bytes > MAX_BYTES:
            self._drop(f"outputs take more than {MAX_BYTES // 2**20} MiB")
            return
        self.kind = kind
        self._outputs.append(outputs.detach().float().cpu())
        self._targets.append(target.detach().cpu())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing."""
        return not self._outputs

    def outputs(self) -> Tensor:
        """All outputs, ``(N, ...)``."""
        return torch.cat(self._outputs)

    def targets(self) -> Tensor:
        """All targets, ``(N, ...)``."""
        return torch.cat(self._targets)

    def _drop(self, reason: str) -> None:
        self.reason, self.kind = reason, None
        self._outputs, self._targets = [], []


def right_answers(
    kind: Kind | None, outputs: Tensor, targets: Tensor, reported: float
) -> NDArray[np.float64] | None:
    """1 for each sample that is right, if their share is the number reported."""
    if kind == "classes":
        candidates = [outputs.argmax(1) == targets]
    elif kind == "binary" and outputs.numel() == len(outputs):
        flat, truth = outputs.reshape(-1), targets.reshape(-1) > 0.5
        candidates = [(flat > 0) == truth, (flat > 0.5) == truth]
    else:
        return None
    for is_right in candidates:
        column = is_right.double().numpy()
        if abs(column.mean() - reported) <= _EXACT:
            return column
    return None


def statistic(
    metric: Any, outputs: Tensor, targets: Tensor
) -> Callable[[NDArray[np.int64]], float]:
    """A torchmetrics metric as a function of the rows that are drawn."""
    clone = copy.deepcopy(metric).to("cpu")

    def compute(rows: NDArray[np.int64]) -> float:
        chosen = torch.from_numpy(rows)
        clone.reset()
        clone.update(outputs[chosen], targets[chosen])
        value = clone.compute()
        return float(value) if value.numel() == 1 else float("nan")

    return compute
