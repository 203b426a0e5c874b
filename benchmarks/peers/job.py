"""What every library is asked to train, and what it reports back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = ["Job", "Outcome", "Peer"]


@dataclass(kw_only=True)
class Job:
    """One training, in words that every library understands.

    Datasets give ``(x, y)``; ``loss(outputs, y)`` is a mean over the batch.

    Attributes:
        count: How many targets the mean of ``loss`` is over; none: samples.
        optimizer: A class, made with ``(parameters, lr=lr)``.
        schedule: ``"linear"``: to zero over the run; none: constant.
        save_steps: A checkpoint every so many optimizer steps.
        save_epochs: A checkpoint after every epoch.
        save_stop: A checkpoint when the run is interrupted.
        resume: Continue from the newest checkpoint in ``folder``.
        fp16: Mixed precision with a loss scale.
        variant: Documented option to use; empty: the usual way.
        on_step: Called by a user's callback after each batch.
        on_end: Called by a user's callback when fitting ends.
        log_every: Steps between two lines of the log.
        keep_log: Put what is logged into the outcome.
        tensorboard: Log to TensorBoard, in ``folder``.
    """

    model: nn.Module
    loss: Callable[[Any, Tensor], Tensor]
    train: Any
    val: Any = None
    collate: Callable[[list[Any]], Any] | None = None
    count: Callable[[Tensor], int] | None = None
    optimizer: Any
    folder: Path
    lr: float = 0.1
    epochs: int = 1
    batch_size: int = 4
    accumulation: int = 1
    shuffle: bool = False
    schedule: str | None = None
    save_steps: int | None = None
    save_epochs: bool = False
    save_stop: bool = False
    resume: bool = False
    fp16: bool = False
    variant: str = ""
    seed: int = 0
    on_step: Callable[[], None] | None = None
    on_end: Callable[[], None] | None = None
    log_every: int = 10
    keep_log: bool = False
    tensorboard: bool = False


@dataclass
class Outcome:
    """What the library itself reports.

    Attributes:
        train_losses: Training loss of each epoch.
        val_losses: Validation loss of each epoch.
        log: Everything it logged, as names and values.
    """

    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A library, used as its documentation recommends.

    Attributes:
        name: As people call it.
        packages: Distributions whose versions the table names.
        files: Where checkpoints lie, as a pattern; resuming takes the last number.
        fit: Trains as a job says.
        options: By experiment, documented options to try if the usual way fails.
        absent: By experiment, why the library makes no such claim.
        notes: By experiment, what a reader should know.
    """

    name: str
    packages: tuple[str, ...]
    files: str
    fit: Callable[[Job], Outcome]
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
