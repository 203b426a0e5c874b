"""What each sample of a pass says by itself: its loss, terms and metrics."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nbutils.data.task import Task
from nbutils.errors import ContractError
from nbutils.train.evaluate import Meters
from nbutils.train.precision import Precision
from nbutils.train.split import size_of, split_batch

__all__ = ["Singles", "without_stateful"]

Floats = NDArray[np.float64]
TOLERANCE = 1e-3
"""Relative; a mean of samples that is further off is not what was reported."""


class Singles:
    """Numbers of one predictor, sample by sample, each as of a batch of one.

    What cannot be computed for one sample at a time has none, and a reason.

    Args:
        task: Has loss and metrics.
        precision: Format of the loss.
        device: Where batches are.
        loss_weights: Weight of each loss term.
        budget_s: Seconds that all samples together may take.
    """

    def __init__(
        self,
        task: Task,
        precision: Precision,
        device: torch.device,
        loss_weights: Any,
        budget_s: float,
    ) -> None:
        self._task = task
        self._precision = precision
        self._meters = Meters(without_stateful(task), device)
        self._loss_weights = loss_weights
        self._left_s = budget_s
        self._columns: dict[str, list[Tensor]] = {}
        self._counts: list[float] = []
        self.reason = ""

    @property
    def num_samples(self) -> int:
        """Samples that were looked at one by one."""
        return len(self._counts)

    @property
    def counts(self) -> Floats:
        """Targets in each sample."""
        return np.asarray(self._counts, np.float64)

    def add(self, outputs: Any, batch: Any) -> None:
        """Take the samples of a batch; the first that fails ends it, with a reason."""
        if self.reason:
            return
        started_s = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as: the variance of one sample
                self._add(outputs, batch)
        except Exception as error:  # the user's own code, on a batch of one: told
            text = str(error).partition("\n")[0][:200]
            self._give_up(f"on one sample alone: {type(error).__name__}: {text}")
        self._left_s -= time.perf_counter() - started_s
        if self._left_s < 0 and not self.reason:
            self._give_up(f"too slow to compute for {self.num_samples:,} samples alone")

    def column(self, name: str, reported: float) -> Floats | str:
        """The samples' numbers, if their mean is what was reported; else a reason."""
        if self.reason:
            return self.reason
        if name not in self._columns:
            return "it is not computed sample by sample"
        values = torch.cat(self._columns[name]).numpy()
        mean = float((values * self.counts).sum() / self.counts.sum())
        if not np.isfinite(mean):
            return "some samples alone have no finite value of it"
        if not abs(mean - reported) <= TOLERANCE * max(abs(reported), 1e-6):
            return (
                f"it is no mean over samples: theirs is {mean:.4g}, over batches it is "
                f"{reported:.4g}"
            )
        return values

    def _add(self, outputs: Any, batch: Any) -> None:
        size = size_of(batch, self._task.contract)
        if size_of(outputs) != size:
            raise ContractError(f"{size_of(outputs)} outputs for {size} samples")
        rows: list[dict[str, Tensor]] = []
        pairs = zip(
            split_batch(outputs, size),
            split_batch(batch, size, self._task.contract),
            strict=True,
        )
        for output, sample in pairs:
            count = self._count(sample)
            if not count:
                continue
            with self._precision.loss_context():
                terms = self._task.loss_terms(output, sample)
                loss = self._task.total(terms, self._loss_weights)
            rows.append(self._meters.measure(output, sample, terms, loss))
            self._counts.append(count)
        for name in rows[0] if rows else ():
            column = torch.stack([row[name].detach().float() for row in rows])
            self._columns.setdefault(name, []).append(column.cpu().double())

    def _count(self, sample: Any) -> float:
        if self._task.count_targets is None:
            return 1.0
        return float(self._task.num_targets(sample))

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._columns, self._counts = {}, []


def without_stateful(task: Task) -> Task:
    """A twin of ``task`` that has only those metrics that are functions."""
    twin = copy.copy(task)
    if isinstance(task.metrics, Mapping):
        kept = {n: m for n, m in task.metrics.items() if not hasattr(m, "compute")}
        twin.metrics = kept
    return twin
