"""Evaluates a test set, then says how sure its numbers are and what they beat."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from nbutils.data.batch import to_device
from nbutils.data.task import Task
from nbutils.train.draws import Draws
from nbutils.train.evaluate import Counted, Meters, evaluate
from nbutils.train.measure.answers import Answers
from nbutils.train.measure.compare import Judge
from nbutils.train.measure.measured import Measured
from nbutils.train.measure.singles import Singles
from nbutils.train.measure.trivial import (
    Trivial,
    declared,
    kind_of,
    trivial_predictor,
)
from nbutils.train.oom import Pieces
from nbutils.train.precision import Precision

__all__ = ["measure_test"]

SINGLES_BUDGET_S = 8.0
"""For the samples of one predictor; a test set that needs more has no such interval."""
RELATED_AT = 0.2
"""Correlation of neighbouring losses from which the reader is told."""
INDEPENDENT = (
    "The intervals assume independent samples. If samples belong together (one person, "
    "one recording, one page) or follow each other in time, the true ones are wider."
)


def measure_test(
    task: Task,
    batches: Iterable[Any],
    precision: Precision,
    device: torch.device,
    *,
    loss_weights: Mapping[str, float],
    seed: int = 0,
    pieces: Pieces | None = None,
) -> Measured:
    """Loss and metrics as :func:`evaluate` gives them, with intervals and baselines.

    Means over samples get an interval from the samples' own numbers; a torchmetrics
    metric that is none is recomputed on resampled outputs and targets. Trivial
    predictors answer the same samples, and the difference to them is paired. What
    cannot be had has a reason in its place.

    Raises:
        ContractError: Not one sample was evaluated.
        OutOfMemoryProblem: Not even one sample at a time fits.
    """
    watcher = _Watcher(task, precision, device, loss_weights)
    metrics = evaluate(
        task,
        batches,
        precision,
        device,
        loss_weights=loss_weights,
        seed=seed,
        pieces=pieces,
        watch=watcher.watch,
    )
    measured = Measured(metrics)
    measured.notes = list(watcher.notes(metrics))
    judge = Judge(task, watcher.own, watcher.answers, seed)
    measured.intervals = {n: judge.interval(n, v) for n, v in metrics.items()}
    measured.baselines = [
        judge.baseline(
            rival.trivial, rival.metrics(), (rival.singles, rival.answers), metrics
        )
        for rival in watcher.rivals
    ]
    measured.num_samples = watcher.own.num_samples or judge.num_answers or None
    measured.answers = None if watcher.answers.is_empty else watcher.answers
    measured.extras = task.extras
    return measured


class _Rival:
    """A trivial predictor over the test set."""

    def __init__(self, trivial: Trivial, task: Task, make: Any, device: Any) -> None:
        self.trivial = trivial
        self.singles: Singles = make()
        self.answers = Answers()
        self._task = copy.copy(task)
        if isinstance(task.metrics, Mapping):  # its sums must not mix with the model's
            self._task.metrics = {
                name: copy.deepcopy(metric) if hasattr(metric, "compute") else metric
                for name, metric in task.metrics.items()
            }
        given = task.metrics if isinstance(task.metrics, Mapping) else {}
        self._needs_answers = any(hasattr(m, "compute") for m in given.values())
        self._meters = Meters(self._task, device)

    def add(self, batch: Any, precision: Precision, loss_weights: Any) -> None:
        outputs = self.trivial.outputs(batch)
        with precision.loss_context():
            terms = self._task.loss_terms(outputs, batch)
            loss = self._task.total(terms, loss_weights)
        values = self._meters.measure(outputs, batch, terms, loss)
        count = self._task.num_targets(batch)
        self._meters.add(Counted(outputs, batch, values, count))
        self.singles.add(outputs, batch)
        if self._needs_answers:
            self.answers.add(outputs, batch)

    def metrics(self) -> dict[str, Any]:
        return self._meters.read()


class _Watcher:
    """Sees each batch of the pass; nothing it does changes what is evaluated."""

    def __init__(
        self, task: Task, precision: Precision, device: torch.device, weights: Any
    ) -> None:
        self._task, self._precision, self._device = task, precision, device
        self._weights = weights
        self._draws = Draws(device)
        self._notes: list[str] = []
        self._has_rivals = False
        self.own = self._singles()
        self.answers = Answers()
        self.rivals: list[_Rival] = []

    def watch(self, outputs: Any, batch: Any) -> None:
        kept = self._draws.keep()  # a loss may draw; what follows must not see it
        try:
            if not self._has_rivals:
                self._has_rivals = True
                self.rivals = self._find_rivals(outputs, batch)
            self.own.add(outputs, batch)
            self.answers.add(outputs, batch)
            self.rivals = [rival for rival in self.rivals if self._add(rival, batch)]
        finally:
            self._draws.restore(kept)

    def notes(self, metrics: Mapping[str, Any]) -> Iterable[str]:
        """Sentences that belong under the numbers."""
        yield INDEPENDENT
        if told := self._neighbours(float(metrics["loss"])):
            yield told
        yield from self._notes

    def _singles(self) -> Singles:
        return Singles(
            self._task, self._precision, self._device, self._weights, SINGLES_BUDGET_S
        )

    def _find_rivals(self, outputs: Any, batch: Any) -> list[_Rival]:
        found, losses = declared(self._task)
        for name, loss in losses.items():
            self._notes.append(f"Declared baseline '{name}': loss {loss:.4g}.")
        made = self._constant(outputs, batch)
        if isinstance(made, Trivial):
            found = [made, *found]
        else:
            self._notes.append(f"No trivial predictor beside it: {made}.")
        return [_Rival(t, self._task, self._singles, self._device) for t in found]

    def _constant(self, outputs: Any, batch: Any) -> Trivial | str:
        """The constant answer that training data suggest, or why there is none."""
        kind = kind_of(outputs, batch)
        if kind is None:
            return "outputs and targets have no form for which one is known"
        try:
            return trivial_predictor(
                self._task, outputs, kind, lambda trivial: self._loss_of(trivial, batch)
            )
        except Exception as error:  # of reading the user's training data: told
            text = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            return f"the training targets cannot be read ({text})"

    def _loss_of(self, trivial: Trivial, batch: Any) -> float:
        """Infinite where the loss does not take such outputs.

        On the host: a loss that asserts within a CUDA kernel would end the process.
        """
        host = to_device(batch, "cpu")
        try:
            with self._precision.loss_context():
                terms = self._task.loss_terms(trivial.outputs(host), host)
                loss = float(self._task.total(terms, self._weights))
        except Exception:  # one of two forms need not fit: then the other is taken
            return math.inf
        return math.inf if math.isnan(loss) else loss

    def _add(self, rival: _Rival, batch: Any) -> bool:
        """Whether the rival could answer this batch; else that is noted."""
        try:
            rival.add(batch, self._precision, self._weights)
        except Exception as error:  # of the task's own baseline or loss: told
            text = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            self._notes.append(f"Baseline '{rival.trivial.name}' failed: {text}")
            return False
        return True

    def _neighbours(self, loss: float) -> str:
        """A sentence if samples next to each other have related losses."""
        column = self.own.column("loss", loss)
        if isinstance(column, str) or len(column) < 50 or np.ptp(column) == 0:
            return ""
        spread = column - column.mean()
        related = float((spread[1:] * spread[:-1]).sum() / (spread**2).sum())
        if related < max(RELATED_AT, 3 / np.sqrt(len(column))):
            return ""
        return (
            f"Neighbouring samples have related losses (correlation {related:.2f}). "
            "That is harmless where the data is sorted by class; where it is in groups "
            "or in time, the intervals here are too narrow."
        )
