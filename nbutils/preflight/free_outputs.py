"""Outputs as free numbers: what a loss asks for, whatever network stands before it."""

from __future__ import annotations

import copy
import math
import random
import time
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbutils.data.batch import batch_size, parts, tensors
from nbutils.data.containers import rebuild
from nbutils.data.graphs import is_graph
from nbutils.errors import ContractError
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.origins import Origin
from nbutils.preflight.probe import Probe

__all__ = ["FreeOutputs", "Values", "replaced", "rolled"]

Values = list[Tensor]
MAX_NUMBERS = 2_000_000
NUM_STEPS = 60
RATES = (0.3, 10.0, 300.0, 1e4)
"""Rates of descent, relative to the outputs; each is tried if the one before it was
still falling at its end, as where a loss scales its targets itself. A tenth of the
best one follows, from where that ended."""
FINE = 2e-3
EDGE = 1e-4
BELOW_ZERO = ("relu", "softplus", "exp")


class FreeOutputs:
    """The loss of one batch as a function of the outputs alone.

    Args:
        probe: The probe of the task.
        batch: A batch on the device; the loss may write into it.
        outputs: What the model gave for it, with its graph.
        origins: Output path -> the activation that it came from.

    Attributes:
        paths: Of the outputs that are free: those with a gradient to the model.
        start: Their values.
        fixed: Path -> floats among the outputs that carry no gradient.
        num_rows: Samples in the batch; 0 if it cannot be told.
        uses: How the loss uses each tensor of the batch, once that was found out.
    """

    def __init__(
        self,
        probe: Probe,
        batch: Any,
        outputs: Any,
        origins: dict[str, Origin | None] | None = None,
    ) -> None:
        self.probe = probe
        self.batch = batch
        self._outputs = _detached(outputs)
        found = dict(tensors(outputs))
        free = {p: t for p, t in found.items() if t.requires_grad and t.numel()}
        self.paths = list(free)
        self.start: Values = [t.detach().clone() for t in free.values()]
        self.fixed = {
            p: t.detach()
            for p, t in found.items()
            if p not in free and t.is_floating_point() and t.ndim
        }
        known = origins or {}
        self.origins = [known.get(path) for path in self.paths]
        self.num_rows = _rows(batch)
        self.uses: dict[str, str] = {}
        self._is_drawing: bool | None = None

    @cached_property
    def _scales(self) -> list[float]:
        """Size of a good change of each output, to begin with: its own spread."""
        return [_scale(value) or 1.0 for value in self.start]

    @property
    def num_numbers(self) -> int:
        """Free numbers in all."""
        return sum(value.numel() for value in self.start)

    def loss(
        self, values: Values, batch: Any = None, seed: int | None = None
    ) -> Tensor:
        """The weighted loss for these outputs, with the same draws at each call."""
        return self.probe.total(self.terms(values, batch, seed))

    def terms(
        self, values: Values, batch: Any = None, seed: int | None = None
    ) -> dict[str, Tensor]:
        """The named terms of :meth:`loss`."""
        outputs = self._outputs
        for path, value in zip(self.paths, values, strict=True):
            outputs = replaced(outputs, path, value)
        batch = self.batch if batch is None else batch
        if self._is_drawing:  # seeding costs as much as a small loss
            seed_everything(self.probe.seed if seed is None else seed)
        before = None if self._is_drawing is not None else _random_state()
        terms = self.probe.terms(outputs, batch)
        if self._is_drawing is None:
            self._is_drawing = before != _random_state()
            return self.terms(values, batch, seed) if self._is_drawing else terms
        return terms

    def value(
        self, values: Values, batch: Any = None, seed: int | None = None
    ) -> float:
        """As :meth:`loss`, without a gradient."""
        with torch.no_grad():
            return float(self.loss(values, batch, seed))

    def gradients(self, values: Values, batch: Any = None) -> list[Tensor | None]:
        """Of the loss, for each free output."""
        leaves = [value.detach().clone().requires_grad_() for value in values]
        loss = self.loss(leaves, batch)
        if not loss.requires_grad:
            return [None] * len(leaves)
        return list(torch.autograd.grad(loss, leaves, allow_unused=True))

    def with_output(
        self, number: int, value: Tensor, column: int | None = None
    ) -> Values:
        """The model's outputs with another value for one, within what it can give.

        Args:
            number: Which of them.
            value: What to put there.
            column: Place in its last axis; none for all of it.
        """
        found = list(self.start)
        if column is not None:
            whole = self.start[number].clone()
            whole[..., column] = value
            value = whole
        found[number] = _within(value, self.origins[number])
        return found

    def scattered(self, seed: int = 0, around: Values | None = None) -> Values:
        """Outputs of which no two rows are alike, near those of the model or others."""
        generator = torch.Generator().manual_seed(seed)
        found: Values = []
        for value, origin in zip(around or self.start, self.origins, strict=True):
            noise = _noise(value, generator)
            if _is_positive(value, origin):
                spread = value * (0.6 + 0.8 * _unit(noise))
                moved = spread + (0.1 * _unit(noise) if not bool(value.any()) else 0)
            else:
                scale = _scale(value)
                moved = value + noise * (scale if scale > 0 else 1.0)
            found.append(_within(moved, origin))
        return found

    def descend(
        self,
        values: Values,
        *,
        shared: bool = False,
        seconds: float = 1.0,
    ) -> tuple[Values, float]:
        """The best outputs that Adam finds from here, and their loss.

        Args:
            values: Where to start.
            shared: Whether all rows must be alike: the best constant answer.
            seconds: When to stop, at the latest.
        """
        deadline = time.perf_counter() + seconds
        begun = [self._wide(self._leaf(v, shared).detach(), v) for v in values]
        best, lowest = begun, self.value(begun)
        used = FINE
        for rate in RATES:
            now, losses = self._run(values, rate, shared, deadline)
            if losses and min(losses) < lowest:
                best, lowest, used = now, min(losses), rate / 10
            if not _is_falling(losses):
                break  # there is nothing to be found farther away
        now, losses = self._run(best, used, shared, deadline)
        if losses and min(losses) < lowest:
            best, lowest = now, min(losses)
        return best, lowest

    def _run(
        self, values: Values, rate: float, shared: bool, deadline: float
    ) -> tuple[Values, list[float]]:
        leaves = [self._leaf(value, shared) for value in values]
        averages = [(torch.zeros_like(v), torch.zeros_like(v.abs())) for v in leaves]
        best, losses = values, list[float]()
        for step in range(1, NUM_STEPS + 1):
            wide = [self._wide(leaf, v) for leaf, v in zip(leaves, values, strict=True)]
            loss = self.loss(wide)
            value = float(loss.detach())
            if value != value or not loss.requires_grad:
                break
            if value < min(losses, default=math.inf):
                best = [part.detach().clone() for part in wide]
            losses.append(value)
            grads = torch.autograd.grad(loss, leaves, allow_unused=True)
            for number, grad in enumerate(grads):
                if grad is not None:
                    size = rate * self._scales[number]
                    _step(leaves[number], grad, averages[number], size, step)
            with torch.no_grad():
                for leaf, origin in zip(leaves, self.origins, strict=True):
                    leaf.copy_(_within(leaf, origin))
            if time.perf_counter() > deadline:
                break
        return best, losses

    def _leaf(self, value: Tensor, shared: bool) -> Tensor:
        if shared and self._has_rows(value):
            value = value.mean(0, keepdim=True)
        return value.detach().clone().requires_grad_()

    def _wide(self, leaf: Tensor, value: Tensor) -> Tensor:
        return leaf.expand(value.shape) if leaf.shape != value.shape else leaf

    def _has_rows(self, value: Tensor) -> bool:
        return value.ndim > 0 and value.shape[0] == self.num_rows > 1


def _is_falling(losses: list[float]) -> bool:
    """Whether the last steps still took off a good part of what all of them did."""
    if len(losses) < NUM_STEPS:
        return False
    return losses[-10] - losses[-1] > 0.05 * abs(losses[0] - losses[-1]) > 0


@torch.no_grad()
def _step(
    leaf: Tensor, grad: Tensor, averages: tuple[Tensor, Tensor], rate: float, step: int
) -> None:
    """One step of Adam (Kingma and Ba 2015).

    By hand, since the first optimizer of torch in a process takes seconds to import.
    """
    mean, square = averages
    mean.lerp_(grad, 0.1)
    square.lerp_(grad.abs().square(), 1e-3)
    steady = (square / (1 - 0.999**step)).sqrt() + 1e-12
    leaf.sub_(rate * (mean / (1 - 0.9**step)) / steady)


def replaced(container: Any, path: str, value: Tensor) -> Any:
    """A copy of a batch or of outputs with another tensor at ``path``."""
    if isinstance(container, Tensor):
        return value
    inner = list(parts(container))
    found = [
        replaced(part, path[len(key) :].removeprefix("."), value)
        if path == key or path.startswith(f"{key}.")
        else part
        for key, part in inner
    ]
    if is_graph(container):
        twin = copy.copy(container)
        for (key, part), new in zip(inner, found, strict=True):
            if new is not part:
                twin[key] = new
        return twin
    return rebuild(container, found)


def rolled(batch: Any, path: str, shift: int = 1) -> Any:
    """The batch with the rows of one of its tensors moved on."""
    tensor = dict(tensors(batch))[path]
    return replaced(batch, path, tensor.roll(shift, 0))


def _detached(outputs: Any) -> Any:
    found = dict(tensors(outputs))
    for path, tensor in found.items():
        outputs = replaced(outputs, path, tensor.detach())
    return outputs


def _random_state() -> tuple[Any, ...]:
    """What a draw from any of the usual generators would change."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states.append(torch.mps.get_rng_state())
    told = (*(state.numpy().tobytes() for state in states), random.getstate())
    return (*told, repr(np.random.get_state()))


def _rows(batch: Any) -> int:
    try:
        return batch_size(batch)
    except ContractError:  # a form without a size: nothing is told about rows
        return 0


def _noise(value: Tensor, generator: torch.Generator) -> Tensor:
    shape = (*value.shape, 2) if value.is_complex() else tuple(value.shape)
    noise = torch.randn(shape, generator=generator)
    noise = torch.view_as_complex(noise) if value.is_complex() else noise
    return noise.to(value.device, value.dtype)


def _unit(noise: Tensor) -> Tensor:
    """Noise squeezed into 0 to 1."""
    return torch.special.ndtr(noise.float()).to(noise.dtype)


def _scale(value: Tensor) -> float:
    if value.numel() < 2:
        return float(value.abs().mean()) if value.numel() else 0.0
    kept = value[torch.isfinite(value)].to(
        torch.complex128 if value.is_complex() else torch.float64
    )
    return float(kept.std()) if kept.numel() > 1 else 0.0


def _is_positive(value: Tensor, origin: Origin | None) -> bool:
    if value.is_complex():
        return False
    kinds = ("sigmoid", "softmax", *BELOW_ZERO)
    return (origin is not None and origin.kind in kinds) or bool((value > 0).all())


def _within(value: Tensor, origin: Origin | None) -> Tensor:
    """The nearest values that the activation could have given."""
    if origin is None or value.is_complex():
        return value
    if origin.kind == "log_softmax" and origin.dim is not None:
        return value.log_softmax(min(origin.dim, value.ndim - 1))
    if origin.kind in ("sigmoid", "softmax"):
        value = value.clamp(EDGE, 1 - EDGE)
        if origin.kind == "softmax" and origin.dim is not None and origin.width > 1:
            value = value / value.sum(min(origin.dim, value.ndim - 1), keepdim=True)
        return value
    if origin.kind in BELOW_ZERO:
        return value.clamp(min=EDGE)
    return value.clamp(-1, 1) if origin.kind == "tanh" else value
