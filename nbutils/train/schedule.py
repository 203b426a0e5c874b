"""Learning-rate schedules as functions of the applied optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nbutils.errors import ConfigError
from nbutils.train.curves import DECAYING, Course, lr_factor

__all__ = ["CurveSchedule", "PlateauSchedule", "Schedule", "build_schedule"]

PLATEAU_FACTOR = 0.1
PLATEAU_PATIENCE = 2
PLATEAU_THRESHOLD = 1e-4


class Schedule:
    """Moves the learning rate when, and only when, the optimizer moved."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.position = 0
        self._num_held = 0
        self._lead = _lead(optimizer)

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
        """Learning rate of the parameters that no pattern of ``lr_groups`` names."""
        return float(self.optimizer.param_groups[self._lead]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Position on the curve, and advances still to be held."""
        return {"position": self.position, "num_held": self._num_held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.position = state["position"]
        self._num_held = state["num_held"]


class _PeakSchedule(Schedule):
    """Scales every parameter group from its own peak, so that all keep in step."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]

    def _factor(self) -> float:
        """Learning rate over peak, here and now."""
        raise NotImplementedError

    def _move(self) -> None:
        factor = self._factor()
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * factor)
            else:
                group["lr"] = peak * factor

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._move()


class CurveSchedule(_PeakSchedule):
    """Follows :func:`lr_factor`.

    Attributes:
        is_decaying: Whether the curve has an end that a run must reach.
        course: Where the run stands on the curve; no part of the state here, since a
            run without a time limit is back on the planned curve.
    """

    def __init__(
        self, optimizer: Optimizer, kind: str, planned: int | None, **shape: float
    ) -> None:
        super().__init__(optimizer)
        self.is_decaying = kind in DECAYING
        self._curve = (kind, planned, shape)
        self.course = Course(max((planned or 1) - 1, 0))
        self._move()

    def _factor(self) -> float:
        kind, planned, shape = self._curve
        position = self.course.at(self.position)
        return lr_factor(kind, position, planned, **shape)  # type: ignore[arg-type]

    def land(self, num_updates: int) -> None:
        """Be at the curve's end in the last of ``num_updates`` more updates."""
        self.course.bend(self.position, self.position + num_updates - 1)
        self._move()

    def refresh(self) -> None:
        """Set the learning rate after the course was changed."""
        self._move()


class PlateauSchedule(_PeakSchedule):
    """Linear warm-up, then a tenth of the rate after each third miss in a row.

    The same as torch's ``ReduceLROnPlateau`` with ``patience=2``; evaluations during
    the warm-up do not count.

    Args:
        optimizer: What it drives.
        mode: ``"min"`` or ``"max"``: which metric is better.
        warmup: Updates of linear warm-up.
        floor: The lowest rate over peak.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str, *, warmup: int = 0, floor: float = 0.0
    ) -> None:
        super().__init__(optimizer)
        self._sign = 1.0 if mode == "min" else -1.0
        self._warmup = warmup
        self._floor = floor
        self._scale = 1.0
        self._best = math.inf
        self._num_misses = 0
        self._move()

    def _factor(self) -> float:
        rise = lr_factor("constant", self.position, None, warmup=self._warmup)
        return rise * self._scale

    def observe(self, metric: float) -> None:
        if self.position < self._warmup:
            return
        value = self._sign * metric
        slack = PLATEAU_THRESHOLD * abs(self._best) if math.isfinite(self._best) else 0
        if value < self._best - slack:  # NaN is not below anything: a miss
            self._best, self._num_misses = value, 0
        else:
            self._num_misses += 1
        if self._num_misses > PLATEAU_PATIENCE:
            self._num_misses = 0
            self._scale = max(self._scale * PLATEAU_FACTOR, self._floor)
            self._move()

    def state_dict(self) -> dict[str, Any]:
        plateau = (self._scale, self._best, self._num_misses)
        return {**super().state_dict(), "plateau": plateau}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scale, self._best, self._num_misses = state["plateau"]
        super().load_state_dict(state)


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
        ConfigError: The curve has an end and the data has no length, the warm-up is
            as long as the run, or ``make_schedule`` returned no scheduler.
    """
    if task is not None and task.make_schedule is not None:
        return TorchSchedule(
            optimizer, _checked(task.make_schedule, optimizer, planned)
        )
    section = config.schedule
    if section.schedule in DECAYING and planned is None:
        raise ConfigError(
            [
                f"schedule is {section.schedule!r} but the training data has no "
                "length, so its end is unknown; set max_steps."
            ]
        )
    if planned is not None and section.warmup_steps >= planned:
        raise ConfigError(
            [
                f"warmup_steps is {section.warmup_steps}, and the run has {planned} "
                "optimizer steps; the warm-up must end before the run does. Lower "
                "warmup_steps, or plan more epochs."
            ]
        )
    shape = {
        "warmup": section.warmup_steps,
        "floor": section.min_lr / config.optim.lr,
    }
    if section.schedule == "plateau":
        return PlateauSchedule(optimizer, config.train.mode, **shape)
    return CurveSchedule(optimizer, section.schedule, planned, **shape)


def _lead(optimizer: Optimizer) -> int:
    """Index of the first group whose learning rate is the configured one."""
    names = [str(group.get("name", "")) for group in optimizer.param_groups]
    plain = [i for i, name in enumerate(names) if not name.startswith("lr ")]
    return plain[0] if plain else 0


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
