"""Part of R13: metrics survive a model that says one class, and a batch that lacks one.

Both come in the first epochs of many runs. Outputs are put in the model's place; only
an exception is held against a metric, which a real evaluation would raise as well.
"""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from nbutils.data.loader import OrderedLoader
from nbutils.data.task import Task
from nbutils.errors import NbutilsError
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.train.evaluate import evaluate
from nbutils.train.session import Session

__all__ = ["judge_collapse"]

SURE = 12.0
"""A logit that leaves no doubt, and no overflow."""

MAX_CLASSES = 3


def judge_collapse(probe: Probe, session: Session, split: str, claims: Claims) -> None:
    """Evaluate one batch under outputs that are all one class, and one-class data."""
    if not session.task.metrics:
        return
    batch, error = attempt(lambda: probe.data.batch(split))
    if error is not None:
        return
    with torch.no_grad():
        outputs, error = attempt(
            lambda: probe.forward(probe.fresh(batch), training=False)
        )
    if error is not None or not _is_logits(outputs, batch):
        return
    for case, made in _outputs(outputs):
        _, error = attempt(lambda given=made: _evaluated(session, batch, given))
        if _is_metric_error(error):
            _note(f"the model answers {case} for every sample", error, claims)
            return
    alone = _one_class(probe, split, batch)
    if alone is None:
        return
    _, error = attempt(lambda: _evaluated(session, alone, None))
    if _is_metric_error(error):
        _note("a batch holds one class only", error, claims)


def _is_logits(outputs: Any, batch: Any) -> bool:
    """Class scores of a pair batch with whole numbers as labels."""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return False
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return False
    labels = batch[1]
    if not isinstance(labels, Tensor) or outputs.ndim not in (1, 2):
        return False
    is_binary = outputs.ndim == 1 or outputs.shape[1] == 1
    is_labels = labels.dtype in (torch.int64, torch.int32, torch.bool)
    is_labels |= is_binary and bool(((labels == 0) | (labels == 1)).all())
    return is_labels and len(labels) == len(outputs)


def _outputs(outputs: Tensor) -> list[tuple[str, Tensor]]:
    """Outputs of a model that always answers the same."""
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        return [
            ("no", torch.full_like(outputs, -SURE)),
            ("yes", torch.full_like(outputs, SURE)),
        ]
    found = []
    for number in range(min(outputs.shape[1], MAX_CLASSES)):
        made = torch.full_like(outputs, -SURE)
        made[:, number] = SURE
        found.append((f"class {number}", made))
    return found


def _evaluated(session: Session, batch: Any, outputs: Tensor | None) -> Any:
    twin = copy.copy(session.task)
    if outputs is not None:
        twin.forward_function = lambda _model, _batch: outputs.clone()
        twin.forward = MethodType(Task.forward, twin)
    return evaluate(
        twin,
        [copy.deepcopy(batch)],
        session.precision,
        session.device,
        loss_weights=session.config.loss.loss_weights,
        seed=session.config.train.seed,
    )


def _one_class(probe: Probe, split: str, batch: Any) -> Any | None:
    """Samples of the first class that has two in the batch."""
    data, loader = probe.data.samples(split), probe.data.loader(split)
    if data is None or not isinstance(loader, OrderedLoader):
        return None
    labels = batch[1].flatten().tolist()
    first = next((v for v in labels if labels.count(v) > 1), None)
    indices = loader.indices(0)
    if first is None or len(labels) != len(indices) or len(set(labels)) < 2:
        return None
    chosen = [i for i, v in zip(indices, labels, strict=True) if v == first]
    found, error = attempt(lambda: loader.plan.collate([data[i] for i in chosen]))
    return None if error is not None else found


def _is_metric_error(error: Exception | None) -> bool:
    """Raised by the user's own code, not by a rule of the evaluation."""
    return error is not None and not isinstance(error, NbutilsError)


def _note(case: str, error: Exception | None, claims: Claims) -> None:
    if error is None:
        return
    claims.add(
        "warn",
        f"a metric fails when {case}",
        expected="a number: this happens in the first epochs of many runs",
        actual=quote(error),
        fix="Guard the division (zero_division=0, clamp(min=1)), name all classes "
        "(labels=range(num_classes)), or use torchmetrics, which sums over the split.",
    )
