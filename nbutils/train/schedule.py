"""Learning-rate schedules as functions of the applied optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nbutils.errors import ConfigError

__all__ = ["Schedule", "build_schedule", "lr_factor"]

ONECYCLE_RISE = 0.3
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1e-4 / 25


def lr_factor(
    kind: str, position: int, planned: int | None, *, warmup: int = 0, floor: float = 0
) -> float:
    """Learning rate over peak at the ``position``-th update, counted from 0.

    Args:
        kind: ``constant``, ``onecycle``, ``cosine`` or ``linear``; ``onecycle`` is
            Smith & Topin 2018 without the momentum cycle.
        position: Updates applied so far.
        planned: Updates of the whole run; the last one is at the curve's end.
        warmup: Updates of linear warm-up; not for ``onecycle``, which has its own.
        floor: Where the curve ends, over peak.

    Example:
        >>> [round(lr_factor("cosine", i, 5), 2) for i in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if kind != "onecycle" and position < warmup:
        return (position + 1) / (warmup + 1)
    if kind == "constant" or planned is None:
        return 1.0
    last = max(planned - 1, 1)
    if kind == "onecycle":
        peak = max(ONECYCLE_RISE * last, 1e-9)
        if position <= peak:
            return _cosine(ONECYCLE_START, 1.0, position / peak)
        end = max(ONECYCLE_END, floor)
        return _cosine(1.0, end, (position - peak) / max(last - peak, 1e-9))
    done = min((position - warmup) / max(last - warmup, 1), 1.0)
    return _cosine(1.0, floor, done) if kind == "cosine" else 1 + (floor - 1) * done


def _cosine(start: float, end: float, done: float) -> float:
    done = min(max(done, 0.0), 1.0)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


class Schedule:
    """Moves the learning rate when, and only when, the optimizer moved."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.position = 0
        self._num_held = 0

    def hold(self) -> None:
        """An update was refused: the next advance, or the last one, does not count.

        On an accelerator the refusal is known a few windows late; what was
        advanced too far is then made good by standing still.
        """
        self._num_held += 1

    def advance(self) -> None:
        """One window was attempted."""
        if self._num_held:
            self._num_held -= 1
            return
        self.position += 1
        self._move()

    def _move(self) -> None:
        """Set the learning rate of the new position."""

    def observe(self, metric: float) -> None:
        """One evaluation was made."""

    def lr(self) -> float:
        """Learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Position on the curve, and advances still to be held."""
        return {"position": self.position, "num_held": self._num_held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.position = state["position"]
        self._num_held = state["num_held"]


class CurveSchedule(Schedule):
    """Follows :func:`lr_factor`, each parameter group from its own peak."""

    def __init__(
        self, optimizer: Optimizer, kind: str, planned: int | None, **shape: float
    ) -> None:
        super().__init__(optimizer)
        self._curve = (kind, planned, shape)
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self._apply()

    def _move(self) -> None:
        self._apply()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._apply()

    def _apply(self) -> None:
        kind, planned, shape = self._curve
        factor = lr_factor(kind, self.position, planned, **shape)  # type: ignore[arg-type]
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * factor)
            else:
                group["lr"] = peak * factor


class TorchSchedule(Schedule):
    """Drives a torch scheduler: per update, or per evaluation for plateaus."""

    def __init__(self, optimizer: Optimizer, scheduler: Any) -> None:
        super().__init__(optimizer)
        self._scheduler = scheduler
        self._is_plateau = isinstance(scheduler, ReduceLROnPlateau)

    def _move(self) -> None:
        if not self._is_plateau:
            self._scheduler.step()

    def observe(self, metric: float) -> None:
        if self._is_plateau:
            self._scheduler.step(metric)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "torch": self._scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._scheduler.load_state_dict(state["torch"])


def build_schedule(
    optimizer: Optimizer, config: Any, planned: int | None, task: Any = None
) -> Schedule:
    """The task's own scheduler, or the configured curve over ``planned`` updates.

    Raises:
        ConfigError: The curve has an end and the data has no length, or
            ``make_schedule`` returned no scheduler.
    """
    if task is not None and task.make_schedule is not None:
        return TorchSchedule(
            optimizer, _checked(task.make_schedule, optimizer, planned)
        )
    section, lr = config.schedule, config.optim.lr
    if section.schedule == "plateau":
        return TorchSchedule(
            optimizer,
            ReduceLROnPlateau(
                optimizer, mode=config.train.mode, min_lr=section.min_lr, patience=2
            ),
        )
    if section.schedule != "constant" and planned is None:
        raise ConfigError(
            [
                f"schedule is {section.schedule!r} but the training data has no "
                "length, so its end is unknown; set max_steps."
            ]
        )
    return CurveSchedule(
        optimizer,
        section.schedule,
        planned,
        warmup=section.warmup_steps,
        floor=section.min_lr / lr,
    )


def _checked(make_schedule: Any, optimizer: Optimizer, planned: int | None) -> Any:
    """What ``make_schedule`` returned, if it can be stepped and saved."""
    made = make_schedule(optimizer, planned)
    if all(hasattr(made, name) for name in ("step", "state_dict", "load_state_dict")):
        return made
    raise ConfigError(
        [
            f"make_schedule returned {made!r:.60} ({type(made).__name__}); a scheduler "
            "of torch.optim.lr_scheduler is expected. Return it from the function."
        ]
    )
