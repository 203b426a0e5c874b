"""Part of R5: what the model makes of each input reaches the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.free_outputs import replaced
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.roles import find_roles

__all__ = ["judge_unheard"]


def judge_unheard(probe: Probe, claims: Claims) -> None:
    """Inputs of several whose change moves outputs, and not the loss at all.

    As with two views of an image, of which the loss compares one with itself.
    """
    batch = probe.data.batch("train")
    floats = [
        path
        for path, tensor in tensors(batch)
        if tensor.ndim > 1 and tensor.is_floating_point() and tensor.shape[0] > 2
    ]
    read = [path for path in find_roles(probe).inputs if path in floats]
    if len(read) < 2:
        return
    before, error = attempt(lambda: _look(probe, batch))
    if error is not None:
        return
    heard: list[str] = []
    idle: list[str] = []
    for path in read:
        after, error = attempt(lambda p=path: _look(probe, _changed(batch, p)))
        if error is not None:
            return
        if not _differ(before[0], after[0]):
            continue
        (heard if before[1] != after[1] else idle).append(path)
    probe.rewind()
    if not heard or not idle:
        return
    claims.add(
        "warn",
        f"'{idle[0]}' is ignored by the loss, though outputs change with it",
        expected="a loss that changes when an input changes",
        actual=f"the loss stays {before[1]:.6g} to the bit when '{idle[0]}' is "
        f"changed; with '{heard[0]}' it changes",
        fix="Look for an output that is used twice in the loss, or not at all.",
    )


def _changed(batch: Any, path: str) -> Any:
    """Other values in another order: a loss over pairs may not feel the order."""
    tensor = dict(tensors(batch))[path]
    return replaced(batch, path, tensor.roll(1, 0) * 1.5 + 0.25)


def _look(probe: Probe, batch: Any) -> tuple[list[Tensor], float]:
    probe.rewind()
    seed_everything(probe.seed)
    moved = probe.fresh(batch)
    with torch.no_grad():
        outputs = probe.forward(moved, training=False)
        value = float(probe.total(probe.terms(outputs, moved)))
    return [t.clone() for _, t in tensors(outputs)], value


def _differ(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) != len(b) or any(
        x.shape != y.shape or not torch.equal(x, y) for x, y in zip(a, b, strict=True)
    )
