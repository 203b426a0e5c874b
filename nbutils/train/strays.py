"""Parameters that ask for a gradient and that no optimizer group owns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nbutils.data.task import Task
from nbutils.monitor.watchdogs.alarm import Alarm
from nbutils.train.callback import Callback
from nbutils.train.groups import unowned_parameters
from nbutils.train.state import RunState

__all__ = ["Strays"]

LOOK_STEPS = 256
NUM_NAMED = 3


class Strays(Callback):
    """Says once that parameters do not train, and drops their gradients.

    An optimizer is built over what requires a gradient then; what a callback unfreezes
    or adds later has no group. Without this its gradients would add up over the run.
    It comes after the user's callbacks, so that it sees what those have just changed,
    and so that one that steps such parameters itself finds their gradients.

    Args:
        task: Its model and loss are looked at.
        optimizer: The run's.
        tell: Takes the alarm; none: nobody wants to know.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Any,
        tell: Callable[[RunState, Iterable[Alarm]], None] | None,
    ) -> None:
        self._task = task
        self._optimizer = optimizer
        self._tell = tell
        self._meant: set[str] = set()
        self._found: dict[str, Any] = {}
        self._num_steps = 0

    def on_fit_start(self, state: RunState) -> None:
        if "frozen on purpose" in self._task.declares:
            self._meant = set(self._look())
        self._judge(state)

    def on_epoch_start(self, state: RunState) -> None:
        self._judge(state)

    def on_step_end(self, state: RunState) -> None:
        self._num_steps += 1
        if self._num_steps >= LOOK_STEPS:
            self._judge(state)
        for parameter in self._found.values():
            parameter.grad = None

    def _look(self) -> dict[str, Any]:
        return unowned_parameters(self._task.model, self._optimizer, self._task.loss)

    def _judge(self, state: RunState) -> None:
        self._num_steps = 0
        self._found = self._look()
        names = [name for name in self._found if name not in self._meant]
        if names and self._tell is not None:
            self._tell(state, [_alarm(names)])


def _alarm(names: list[str]) -> Alarm:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return Alarm(
        "W1",
        "unowned",
        f"{len(names)} parameter tensors require a gradient, and no group of the "
        f"optimizer owns them, so they do not train: {', '.join(names[:NUM_NAMED])}"
        f"{more}. The optimizer is built over what requires a gradient when the run "
        "begins. To unfreeze parts during the run, pass "
        "make_optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=...): "
        "frozen ones get no gradient and rest. Or unfreeze them before the run. What "
        "is to rest wants requires_grad_(False), or, if it rests from the beginning, "
        'declares=["frozen on purpose"].',
    )
