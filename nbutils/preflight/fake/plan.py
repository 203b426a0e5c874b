"""The memory plan: what a training step needs, as a line in the size of its batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from nbutils.train.low_memory import EIGHT_BIT

__all__ = ["MemoryPlan", "optimizer_bytes", "size_text"]

BLOCK = 256
"""Elements that share one scale in an 8-bit state."""
SMALL = 4096
"""Tensors with fewer elements keep a plain state in 8-bit optimizers."""
NUM_MOMENTS = {"adamw": 2, "adam": 2}
MAX_BATCH = 2**20


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of a run, part by part.

    Gradients grow while activations shrink, so the peak is below the sum of both. The
    step's peak is taken to be ``step_fixed + step_per_sample * batch_size``.

    Args:
        num_parameters: Scalars in the model and in a loss with parameters.
        num_trainable: Those that are trained.
        weights: Bytes of parameters and buffers.
        gradients: Bytes of the gradients.
        optimizer: Bytes of the optimizer's state.
        optimizer_name: Which one.
        ema: Bytes of the averaged weights.
        activations: Bytes that the forward pass keeps for the backward pass.
        step: Most bytes that a step holds beside all that; gradients included.
        step_fixed: Its part that does not depend on the batch.
        step_per_sample: Its part per sample.
        batch_size: The micro-batch that was planned.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: Whose rules were used, ``"cpu"`` or ``"cuda"``.
        checkpointing: Whether activations are recomputed.
        basis: How the numbers came about, in words.
    """

    num_parameters: int
    num_trainable: int
    weights: int
    gradients: int
    optimizer: int
    optimizer_name: str
    ema: int
    activations: int
    step: int
    step_fixed: float
    step_per_sample: float
    batch_size: int
    precision: str
    device: str
    checkpointing: bool
    basis: str

    @property
    def standing(self) -> int:
        """What is held between steps: weights, optimizer state and average."""
        return self.weights + self.optimizer + self.ema

    @property
    def total(self) -> int:
        """The peak of a run with the planned micro-batch."""
        return self.standing + max(self.step, self.gradients)

    def total_at(self, batch_size: int) -> int:
        """The peak of a run with another micro-batch."""
        step = self.step_fixed + self.step_per_sample * batch_size
        return self.standing + max(round(step), self.gradients)

    def largest_batch(self, capacity: float) -> int:
        """The largest micro-batch that fits into so many bytes; 0 if none does."""
        if self.total_at(1) > capacity:
            return 0
        if self.step_per_sample <= 0:
            return MAX_BATCH
        room = capacity - self.standing - self.step_fixed
        return max(1, min(MAX_BATCH, math.floor(room / self.step_per_sample)))

    def at(self, batch_size: int) -> MemoryPlan:
        """The plan for another micro-batch."""
        share = batch_size / self.batch_size
        step = self.total_at(batch_size) - self.standing
        activations = round(self.activations * share)
        return replace(self, batch_size=batch_size, step=step, activations=activations)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {**asdict(self), "total": self.total}

    def table(self) -> str:
        """The parts, one line each."""
        kept = "recomputed " if self.checkpointing else ""
        rows = [
            (
                "weights and buffers",
                self.weights,
                f"{self.num_parameters:,} parameters",
            ),
            ("gradients", self.gradients, f"{self.num_trainable:,} trainable"),
            (f"optimizer ({self.optimizer_name})", self.optimizer, ""),
            ("averaged weights", self.ema, ""),
            (
                f"{kept}activations",
                self.activations,
                f"batch {self.batch_size}, {self.precision}",
            ),
            ("peak of a step", self.total, "gradients replace activations"),
        ]
        shown = [row for row in rows if row[1] or row[0].endswith("gradients")]
        width = max(len(name) for name, _, _ in shown)
        lines = [f"{n:<{width}} {size_text(b):>10}  {note}" for n, b, note in shown]
        return "\n".join(line.rstrip() for line in lines)


def optimizer_bytes(
    name: str, parameters: Iterable[nn.Parameter], *, momentum: float = 0.9
) -> int:
    """Bytes of the state of a configured optimizer.

    Args:
        name: The config's ``optimizer``.
        parameters: What it moves; may be fake or on the meta device.
        momentum: Of SGD; without it there is no state.
    """
    total = 0
    for parameter in parameters:
        count = parameter.numel()
        plain = count * parameter.element_size()
        if name in EIGHT_BIT:
            small = 2 * 4 * count
            total += small if count < SMALL else 2 * (count + 4 * -(-count // BLOCK))
        elif name == "sgd":
            total += plain if momentum else 0
        else:
            total += NUM_MOMENTS.get(name, 2) * plain + 4
    return total


def size_text(num_bytes: float) -> str:
    """Bytes in words.

    Example:
        >>> size_text(3 * 2**20), size_text(48.49 * 2**30)
        ('3.0 MiB', '48.5 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
