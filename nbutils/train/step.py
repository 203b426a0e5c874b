"""One optimizer step over a window: the only place where gradients exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import batch_size, to_device
from nbutils.data.task import Task
from nbutils.errors import ContractError
from nbutils.train.buffers import LiveBuffers
from nbutils.train.memory_errors import OutOfMemoryProblem
from nbutils.train.oom import MicroBatches
from nbutils.train.precision import Precision, to_fp32

__all__ = ["StepOutcome", "TrainStep", "forward_loss"]

_NO_GRADIENT = (
    "the loss of this batch carries no gradient: it does not depend on a trainable "
    "parameter. A loss computed from the model's outputs is expected. Look for "
    ".detach(), .item(), torch.tensor(...) or no_grad in model and loss; for a batch "
    "with nothing to learn from, let count_targets return 0."
)


@dataclass(frozen=True)
class StepOutcome:
    """What a window gave; tensors are ``()`` and stay on the device until read.

    Attributes:
        scale: The loss scale after it; none where the format has none.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    grad_norm: Tensor
    refused: Tensor
    num_targets: int
    num_samples: int
    scale: Tensor | None = None


def forward_loss(
    task: Task, model: nn.Module, batch: Any, precision: Precision, weights: Any
) -> tuple[Any, dict[str, Tensor], Tensor]:
    """Outputs, named terms and weighted total of one batch on its device."""
    if precision.is_plain:
        outputs = task.forward(model, batch)
        terms = task.loss_terms(outputs, batch)
        return outputs, terms, task.total(terms, weights)
    with precision.autocast():
        outputs = task.forward(model, batch)
    if precision.loss_fp32:
        outputs = to_fp32(outputs)
    with precision.loss_context():
        terms = task.loss_terms(outputs, batch)
        return outputs, terms, task.total(terms, weights)


@dataclass(frozen=True)
class TrainStep:
    """Backpropagates a window as one big batch, then asks for the update."""

    task: Task
    model: nn.Module
    update: Callable[[Tensor], tuple[Tensor, Tensor]]
    precision: Precision
    device: torch.device
    loss_weights: dict[str, float]
    micro: MicroBatches
    buffers: LiveBuffers

    def __call__(self, window: list[Any]) -> StepOutcome:
        """Train on the batches of ``window``, host side, in their order.

        Raises:
            ContractError: The window has no target to average over.
            OutOfMemoryProblem: It does not fit, not even in parts.
        """
        num_samples = None
        if not self._counts_samples:
            num_samples = _num_samples(window)
        self.buffers.keep()
        loss, terms, num_targets = self.micro.run(window, self._accumulate)
        health = self.buffers.health()
        try:
            grad_norm, refused = self.update(loss if health is None else loss + health)
        except OutOfMemoryProblem:
            self.buffers.restore()
            raise
        self.buffers.settle(refused)
        if num_samples is None:
            num_samples = num_targets
        scale = None if self.precision.scale is None else self.precision.scale.now()
        return StepOutcome(
            loss, terms, grad_norm, refused, num_targets, num_samples, scale
        )

    @cached_property
    def _counts_samples(self) -> bool:
        """Whether targets are samples, so that one count serves for both."""
        is_ours = type(self.task).num_targets is Task.num_targets
        return is_ours and self.task.count_targets is None

    def _accumulate(self, parts: list[Any]) -> tuple[Tensor, dict[str, Tensor], int]:
        """Gradients of the window's mean loss: each part gives its share of it."""
        counts = [self.task.num_targets(part) for part in parts]
        num_targets = sum(counts)
        if not num_targets:
            raise ContractError(
                "this window holds 0 targets, so its mean loss is undefined; expected "
                "at least 1. Check count_targets, or drop batches that are all padding."
            )
        losses: list[Tensor] = []
        totals: dict[str, Tensor] = {}
        for part, count in zip(parts, counts, strict=True):
            if not count:
                continue  # nothing to learn from, and its mean would be 0/0
            share = count / num_targets
            batch = to_device(part, self.device)
            outputs, terms, loss = forward_loss(
                self.task, self.model, batch, self.precision, self.loss_weights
            )
            if not loss.requires_grad:
                raise ContractError(_NO_GRADIENT)
            loss = loss if share == 1 else loss * share
            self.precision.backward(loss)
            kept = loss.detach()
            losses.append(kept)
            for name, term in terms.items():
                value = kept if term is loss else term.detach() * share
                totals[name] = totals[name] + value if name in totals else value
            del batch, outputs, terms, loss  # else they last through the next forward
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return total, totals, num_targets


def _num_samples(window: list[Any]) -> int | None:
    """Samples of a window; none where only ``count_targets`` can tell its size."""
    try:
        return sum(batch_size(batch) for batch in window)
    except ContractError:
        return None
