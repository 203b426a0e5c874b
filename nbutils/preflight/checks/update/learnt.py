"""Part of R10: what was learnt of one batch, against the best constant answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.loss.targets import uses
from nbutils.preflight.free_outputs import MAX_NUMBERS, FreeOutputs
from nbutils.preflight.probe import Probe
from nbutils.preflight.roles import find_roles

if TYPE_CHECKING:
    from nbutils.preflight.checks.update.learning import Lesson

__all__ = ["Levels", "find_levels", "judge_learnt"]

CLEARLY = 0.1
HARDLY = 0.02
NOISY = 0.1
SAME = 1e-3
MIN_ROWS = 4


@dataclass(frozen=True, slots=True)
class Levels:
    """What trivial and perfect outputs would reach on the batch.

    Args:
        start: Loss of the model as it is.
        constant: Loss of the best outputs that are alike for all samples.
        floor: Loss of the best outputs that were found.
        noise: Standard deviation of the loss from call to call.
        targets: Paths of the batch whose rows the loss looks at.
    """

    start: float
    constant: float
    floor: float
    noise: float
    targets: tuple[str, ...]

    @property
    def gap(self) -> float:
        """What there is to learn about single samples."""
        return self.constant - self.floor

    @property
    def goal(self) -> float:
        """Clearly better than any constant answer."""
        return self.constant - CLEARLY * self.gap - 2 * self.noise


def find_levels(probe: Probe, batch: Any) -> Levels | None:
    """The levels, or none where the outputs cannot stand alone or nothing varies."""
    probe.rewind()
    moved = probe.fresh(batch)
    outputs = probe.forward(moved, training=True)
    free = FreeOutputs(probe, probe.fresh(batch), outputs)
    if not free.paths or free.num_rows < MIN_ROWS or free.num_numbers > MAX_NUMBERS:
        return None
    found = uses(free, free.scattered())
    targets = tuple(path for path, use in found.items() if use == "rows")
    if not targets or not _differ(probe, batch):
        return None
    start = free.value(free.start)
    shared, constant = free.descend(free.start, shared=True)
    floor = min(free.descend(v)[1] for v in (free.start, shared))
    noise = _noise(probe, batch)
    probe.rewind()
    if not all(map(math.isfinite, (start, constant, floor))) or constant <= floor:
        return None
    return Levels(start, constant, floor, noise, targets)


def _differ(probe: Probe, batch: Any) -> bool:
    """Whether the samples have different inputs, as far as that can be told."""
    known = {p.replace("sample", "batch") for p in find_roles(probe).inputs}
    given = [t for p, t in tensors(batch) if p in known and t.ndim and len(t) > 1]
    return not given or any(bool((t != t[:1]).any()) for t in given)


def _noise(probe: Probe, batch: Any) -> float:
    """How much the loss of an unchanged model changes from call to call."""
    probe.rewind()
    with torch.no_grad():
        found = [float(probe.loss(batch, training=True)) for _ in range(4)]
    return float(torch.tensor(found, dtype=torch.float64).std())


def judge_learnt(
    lessons: Sequence[Lesson], levels: Levels | None, claims: Claims
) -> None:
    """Judge the best try; in doubt the numbers are shown and nothing is claimed."""
    best = min(lessons, key=lambda lesson: lesson.end)
    if levels is None:
        claims.add("pass", f"one batch: {best.text}")
        return
    shown = (
        f"best constant answer {levels.constant:.4g}, best outputs {levels.floor:.4g}"
    )
    claims.show([("levels of that batch", shown)])
    expected = f"a loss below {levels.constant:.4g}, that of the best constant answer"
    is_alike = _moves_alike(best) and best.end > levels.floor + levels.gap / 2
    if best.end <= levels.constant - HARDLY * levels.gap and not is_alike:
        claims.add(
            "pass", "one batch can be learnt", expected=expected, actual=best.text
        )
        return
    state = _state(best)
    if not state or levels.noise > NOISY * levels.gap or len(lessons) < 2:
        claims.show([("no better than a constant answer so far", best.text)])
        return
    tried = ", ".join(f"{lesson.name}: {lesson.text}" for lesson in lessons)
    claims.add(
        "warn",
        f"the model cannot fit even one batch of {_rows(best)}: {state}",
        expected=expected,
        actual=f"{tried}; {state}",
        fix="Follow the input through the layers: look for dead ReLUs, saturated "
        "sigmoids, weights that are all 0 or all alike, detach() or a mean over the "
        "wrong axis, and a last layer that is frozen.",
    )


def _rows(lesson: Lesson) -> int:
    return max((len(t) for t in lesson.after.values()), default=0)


def _state(lesson: Lesson) -> str:
    """What the outputs show of a model that learns nothing about its samples."""
    found = lesson.after.values()
    if found and all(
        float(_centred(t).norm()) <= SAME * float(t.double().norm()) for t in found
    ):
        return "it gives every sample the same output"
    return "its outputs move for all samples alike" if _moves_alike(lesson) else ""


def _moves_alike(lesson: Lesson) -> bool:
    """Whether outputs moved, and the differences between samples did not."""
    if not lesson.after:
        return False
    for path, tensor in lesson.after.items():
        moved = tensor.double() - lesson.before[path].double()
        apart = float(_centred(moved).norm())
        if apart > SAME * max(float(moved.norm()), 1e-12):
            return False
    return True


def _centred(tensor: Tensor) -> Tensor:
    return tensor.double() - tensor.double().mean(0, keepdim=True)
