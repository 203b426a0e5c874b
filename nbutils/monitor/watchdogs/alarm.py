"""What a watchdog says, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Alarm", "Pass", "Stretch"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One cause for concern.

    Attributes:
        id: ``"W1"`` to ``"W9"``.
        cause: Short name; the same cause of the same watchdog is told once.
        text: What was seen, what it means, what to do.
        is_serious: Whether going on is most likely wasted time.
    """

    id: str
    cause: str
    text: str
    is_serious: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some steps in a row.

    Attributes:
        num_steps: Windows attempted.
        num_refused: Refused updates among them; a settling loss scale left out.
        seconds: How long they took, pauses included.
        seconds_per_step: Median.
        losses: Of applied updates, in order.
        grad_norms: Of the same updates, before clipping.
        scale: Loss scale at the end; none where there is none.
    """

    num_steps: int
    num_refused: int = 0
    seconds: float = 0.0
    seconds_per_step: float = 0.0
    losses: Sequence[float] = ()
    grad_norms: Sequence[float] = ()
    scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """An evaluated pass over the training data.

    Attributes:
        epoch: Passes so far.
        num_updates: Updates applied in the whole run.
        train_loss: Mean of this pass.
        val_loss: None where there is no validation data.
        lr: Learning rate at its end.
        movement: Relative change of the weights' norms since the last one; exactly 0
            if not one sampled weight has moved; none: not known.
        num_misses: Evaluations since the monitored metric was best.
        is_warming_up: Whether the learning rate still rises.
    """

    epoch: int
    num_updates: int
    train_loss: float
    val_loss: float | None = None
    lr: float = 0.0
    movement: float | None = None
    num_misses: int = 0
    is_warming_up: bool = False
