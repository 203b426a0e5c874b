"""Back to the last good snapshot, once the budget for refused updates is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nbutils.environment.limits import available_memory_bytes
from nbutils.errors import SkipBudgetError
from nbutils.monitor.events import EventLog
from nbutils.train.callback import Callback
from nbutils.train.ema import Ema
from nbutils.train.guard import ADVICE
from nbutils.train.state import RunState

__all__ = ["Rollback", "all_finite", "give_up"]

MAX_MEMORY_SHARE = 0.25
MOVED_BACK = ("optimizer", "precision", "loss", "ema")


class Rollback(Callback):
    """Takes model, optimizer, average, loss and loss scale back to a good state.

    Counters, data position, random generators, history and schedule stay, so the run
    goes on past the refused windows. Before the first checkpoint there is a copy of
    the start in memory; a return to it clears moments and average.

    Args:
        model: What is trained.
        parts: What a snapshot holds beside it, by name.
        limit: Returns that a run may have.
        events: Told of each.
        snapshots: Whole checkpoints, newest first; waits for one under way.
        take: ``take(step, model, parts)``: a copy on the host, as checkpoints have.
        restore: ``restore(snapshot, model, parts)``: random generators untouched.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, Any],
        limit: int,
        events: EventLog,
        *,
        snapshots: Callable[[], Iterable[Any]],
        take: Callable[[int, nn.Module, Mapping[str, Any]], Any],
        restore: Callable[[Any, nn.Module, Mapping[str, Any]], None],
    ) -> None:
        self._model = model
        self._parts = {name: parts[name] for name in MOVED_BACK if name in parts}
        self._parts["optimizer"] = _Moments(parts["optimizer"])
        self._limit = limit
        self._events = events
        self._snapshots = snapshots
        self._take = take
        self._restore = restore
        self._start: Any = None

    def on_fit_start(self, state: RunState) -> None:
        if self._limit == 0 or state.step:
            return
        parts = {n: part for n, part in self._parts.items() if n != "ema"}
        needed = sum(t.numel() * t.element_size() for t in self._all_tensors())
        free = available_memory_bytes()
        if needed > MAX_MEMORY_SHARE * free:
            text = (
                f"no copy of the start is kept in memory: it needs {needed / 1e9:.1f} "
                f"GB, and {free / 1e9:.1f} GB are free. Before the first checkpoint "
                "there is nothing to roll back to."
            )
            self._events.write("message", level="warning", text=text)
            return
        self._start = self._take(0, self._model, parts)

    def on_checkpoint(self, state: RunState) -> None:
        self._start = None  # that checkpoint takes its place

    def on_fit_end(self, state: RunState) -> None:
        self._start = None

    def __call__(self, state: RunState, reason: str) -> None:
        """Go back, or end the run where that is not possible any more.

        Raises:
            SkipBudgetError: The run was rolled back before, or has nowhere to go.
        """
        if state.rollbacks >= self._limit:
            raise SkipBudgetError(f"{reason} {self._history(state)}{ADVICE}")
        found = self._newest_good()
        if found is None:
            raise SkipBudgetError(
                f"{reason} There is no snapshot with finite weights to go back to. "
                f"{ADVICE}"
            )
        self._restore(found, self._model, self._parts)
        average = self._parts.get("ema")
        if found is self._start and isinstance(average, Ema):
            average.reset()
        state.rollbacks += 1
        state.rolled_back_to = int(found.step)
        self._events.write(
            "rollback",
            step=state.step,
            epoch=state.epoch,
            to_step=int(found.step),
            reason=reason,
        )

    def _newest_good(self) -> Any:
        for snapshot in self._snapshots():
            if all_finite(self._model, snapshot.weights):
                return snapshot
            text = (
                f"the checkpoint of step {snapshot.step} holds non-finite weights; an "
                "earlier one is looked for."
            )
            self._events.write("message", level="warning", text=text)
        return self._start

    def _history(self, state: RunState) -> str:
        if not state.rollbacks:
            return "max_rollbacks is 0, so it was not rolled back. "
        times = "once" if state.rollbacks == 1 else f"{state.rollbacks} times"
        return (
            f"The run was rolled back {times}, to step {state.rolled_back_to}, and the "
            "refusals went on. "
        )

    def _all_tensors(self) -> Iterable[Tensor]:
        yield from self._model.parameters()
        yield from self._model.buffers()
        loss = self._parts.get("loss")
        yield from loss.parameters() if isinstance(loss, nn.Module) else ()


class _Moments:
    """An optimizer's state without its groups: the schedule keeps those."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({**state, "param_groups": groups})


def give_up(_state: RunState, reason: str) -> None:
    """What a run without a rollback does.

    Raises:
        SkipBudgetError: Always.
    """
    raise SkipBudgetError(f"{reason} {ADVICE}")


def all_finite(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether no weight is NaN or infinite; a buffer may hold a mask of -inf."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, value in weights.items():
        if not value.is_floating_point():
            continue
        bad = ~value.isfinite() if name in parameters else value.isnan()
        if bool(bad.any()):
            return False
    return True
