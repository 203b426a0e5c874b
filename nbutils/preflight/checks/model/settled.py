"""Parts of R4: a batch of one keeps its axis; evaluation leaves the model as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.model.companions import distance
from nbutils.preflight.data_probe import Case
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe

__all__ = ["Shapes", "judge_axis", "judge_dropped", "judge_settled"]

NOTABLE = 1e-3
MIN_DROPPED = 0.02
Shapes = dict[str, tuple[int, ...]]


def judge_axis(found: dict[Case, Shapes], claims: Claims) -> None:
    """Outputs of one sample have as many axes as outputs of several.

    Args:
        found: Shapes of the outputs for each batch that was tried.
        claims: Takes the outcome.
    """
    whole = next((c for c in found if c.is_met and c.num_samples > 1), None)
    single = next((c for c in found if c.is_met and c.num_samples == 1), None)
    if whole is None or single is None:
        return
    for path, shape in found[whole].items():
        other = found[single].get(path)
        has_axis = shape[:1] == (whole.num_samples,)
        if other is None or not has_axis or len(other) >= len(shape):
            continue
        claims.add(
            "warn",
            "outputs lose the batch dimension for a batch of one sample",
            expected=f"shape {(1, *shape[1:])} for the {single.name}",
            actual=f"shape {other}; for the {whole.name} it is {shape}",
            fix="squeeze() takes every axis of length 1: name the axis, as in "
            "squeeze(-1).",
        )
        return


@torch.no_grad()
def judge_settled(probe: Probe, batch: Any, claims: Claims) -> bool:
    """Whether buffers that move in eval mode change what comes out; a warning then."""
    probe.rewind()
    before = {name: value.clone() for name, value in probe.model.named_buffers()}
    first = _outputs(probe, batch)
    moved = [
        name
        for name, value in probe.model.named_buffers()
        if name in before and not _is_equal(before[name], value)
    ]
    if not moved:
        return False
    second = _outputs(probe, batch)
    worst = max((distance(a, second[p]) for p, a in first.items()), default=0.0)
    if worst <= NOTABLE:
        return False
    claims.add(
        "warn",
        "eval mode: evaluating changes the model's buffers, and so its outputs",
        expected="a model that validation leaves as it is",
        actual=f"'{moved[0]}' has changed, and outputs of one input differ by "
        f"{worst:.1%}",
        fix="Write to the buffer only if self.training.",
    )
    return True


def judge_dropped(probe: Probe, claims: Claims) -> None:
    """Whether dropout sets outputs themselves to zero, at other places each time."""
    batch = probe.data.batch("train")
    probe.rewind()
    with probe.recording() as recorder:
        with torch.no_grad():
            evaluated = _floats(probe.forward(probe.fresh(batch), training=False))
        # In train mode with gradients: a forward may differentiate by itself.
        before = len(recorder.forced_dropout)
        trained = _floats(probe.forward(probe.fresh(batch), training=True))
        active = recorder.forced_dropout[before:]
    again = _floats(probe.forward(probe.fresh(batch), training=True))
    for path, tensor in trained.items():
        if not active or path not in again or path not in evaluated:
            continue
        zero = tensor == 0
        share = float(zero.double().mean())
        has_own = bool((evaluated[path] == 0).any())
        is_whole = tensor.shape != again[path].shape or has_own
        if is_whole or share < MIN_DROPPED or torch.equal(zero, again[path] == 0):
            continue
        claims.add(
            "warn",
            "dropout acts on the outputs: it sets predictions to zero",
            expected="dropout before the last layer, none after it",
            actual=f"{share:.0%} of '{path.replace('batch', 'output')}' are exactly 0 "
            f"in train mode, at other places each time, and none in eval mode "
            f"({active[-1]})",
            fix="Move the dropout before the last layer.",
        )
        return


def _floats(outputs: Any) -> dict[str, Tensor]:
    found = ((p, t.detach()) for p, t in tensors(outputs))
    return {p: t for p, t in found if t.is_floating_point() and t.numel()}


def _outputs(probe: Probe, batch: Any) -> dict[str, Tensor]:
    seed_everything(probe.seed)
    outputs = probe.forward(probe.fresh(batch), training=False)
    return {p: t for p, t in tensors(outputs) if t.is_floating_point()}


def _is_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))
