"""Cross entropy, and the check that every label has a place in the head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch.nn.functional as functional
from torch import Tensor

from nbutils.errors import ContractError

__all__ = ["check_labels", "make_loss"]


def make_loss(
    label_smoothing: float,
) -> Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]:
    """Mean cross entropy in nats of logits ``(B, K)`` against the batch's labels."""

    def loss(logits_BK: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(
            logits_BK, batch[1], label_smoothing=label_smoothing
        )

    def sample_losses(logits_BK: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Each image's own loss, ``(B,)``: for the best and worst examples."""
        return functional.cross_entropy(
            logits_BK, batch[1], label_smoothing=label_smoothing, reduction="none"
        )

    loss.sample_losses = sample_losses  # type: ignore[attr-defined]
    return loss


def check_labels(labels: Sequence[int], num_classes: int) -> None:
    """Each label has an output of the model.

    Raises:
        ContractError: Names the labels outside the head, with their counts.
    """
    outside = Counter(label for label in labels if not 0 <= label < num_classes)
    if not outside:
        return
    named = ", ".join(f"{label} ({n} samples)" for label, n in sorted(outside.items()))
    raise ContractError(
        f"labels lie outside the model's head of {num_classes} outputs: {named}. "
        f"Labels must be 0 to {num_classes - 1}: give the model as many outputs as "
        "there are classes, or correct the labels."
    )
