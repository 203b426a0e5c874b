"""Validation after each epoch of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from nbutils.data.loader import Loader
from nbutils.data.task import Task
from nbutils.train.evaluate import evaluate
from nbutils.train.oom import Pieces
from nbutils.train.precision import Precision
from nbutils.train.watchers.taps import ResultTap

__all__ = ["Validation"]


class Validation:
    """Evaluates a run's validation data, with its average weights if it keeps them.

    Full loss weights count, whatever phase training is in, so that epochs compare.

    Attributes:
        results: Gets the outputs of each batch; none: nobody wants them.
    """

    def __init__(
        self,
        task: Task,
        config: Any,
        device: torch.device,
        precision: Precision,
        *,
        loader: Loader,
        pieces: Pieces,
        averaged: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._task = task
        self._config = config
        self._device = device
        self._precision = precision
        self._loader = loader
        self._pieces = pieces
        self._averaged = averaged
        self.results: ResultTap | None = None

    def __call__(self) -> dict[str, Any]:
        """Loss and metrics of the validation data."""
        results = self.results
        with self._averaged():
            return evaluate(
                self._task,
                self._loader if results is None else results.over(self._loader),
                self._precision,
                self._device,
                loss_weights=self._config.loss.loss_weights,
                seed=self._config.train.seed,
                pieces=self._pieces,
                watch=None if results is None else results.add,
            )
