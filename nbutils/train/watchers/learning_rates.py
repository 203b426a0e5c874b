"""The learning rate of each parameter group."""

from __future__ import annotations

from torch import Tensor

from nbutils.train.state import RunState
from nbutils.train.watchers.watcher import Cadence, Parts, Watcher

__all__ = ["LearningRateMonitor", "group_names"]


class LearningRateMonitor(Watcher):
    """Writes ``lr/<group>``: the rate with which that very step was made.

    A group without a name is called ``all`` if it is the only one, else ``group0``, ...

    Args:
        every_steps: Look at each so many steps; by default at logged ones, at most
            once in two seconds.
    """

    def __init__(self, every_steps: int | None = None) -> None:
        self._cadence = Cadence(every_steps)
        self._names: list[str] = []
        self._rates: list[float] | None = None

    def attach(self, parts: Parts) -> None:
        super().attach(parts)
        self._cadence.bind(parts.config)
        self._names = group_names(parts.optimizer.param_groups)
        self._rates = None

    def on_fit_start(self, state: RunState) -> None:
        self._look_ahead(state)

    def on_step_end(self, state: RunState) -> None:
        if state.step < self.wake:
            return
        if self._rates is not None:
            rates, self._rates = self._rates, None
            pairs = zip(self._names, rates, strict=False)
            self.write(state.step, {f"lr/{name}": rate for name, rate in pairs})
        self._look_ahead(state)

    def before_update(self) -> None:
        """Read the rates: the schedule moves on before the step is over."""
        groups = self.parts.optimizer.param_groups
        self._rates = [float(group["lr"]) for group in groups]

    def after_update(self, norm: Tensor, refused: Tensor) -> None:
        """Nothing more to see."""

    def _look_ahead(self, state: RunState) -> None:
        coming, planned = state.step + 1, state.planned_steps
        if self._cadence.is_due(coming, planned):
            self.parts.taps.update.watch_next(self)
            self.wake = coming
        else:
            self.wake = self._cadence.after(coming, planned) - 1


def group_names(groups: list[dict[str, object]]) -> list[str]:
    """A name for each parameter group, all different.

    Example:
        >>> group_names([{"name": "head"}, {}])
        ['head', 'group1']
    """
    if len(groups) == 1:
        return [str(groups[0].get("name", "all"))]
    names = [str(group.get("name", f"group{i}")) for i, group in enumerate(groups)]
    if len(set(names)) < len(names):
        return [f"{name}-{i}" for i, name in enumerate(names)]
    return names
