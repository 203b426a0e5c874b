"""What is done about a refused window: looked into, kept on disk, told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nbutils.monitor.events import EventLog
from nbutils.train.culprit import Culprit
from nbutils.train.guard import Evidence, is_settling
from nbutils.train.refused import RefusedBatches
from nbutils.train.state import Reading, RunState

__all__ = ["Refusals"]


class Refusals:
    """Gathers the evidence of each refusal and writes its ``refused`` event.

    Args:
        run_dir: The run.
        events: Told of each.
        state: The run's; a series of refusals is looked into at its first one.
        culprit: Finds the first bad module.
        indices: Sample indices of a batch of this epoch; None for a stream.
        parts: A window in the parts it is computed in.
    """

    def __init__(
        self,
        run_dir: Path,
        events: EventLog,
        state: RunState,
        culprit: Culprit,
        *,
        indices: Callable[[int], list[int] | None],
        parts: Callable[[list[Any]], list[Any]],
    ) -> None:
        self._batches = RefusedBatches(run_dir / "refused", self._warn)
        self._events = events
        self._state = state
        self._culprit = culprit
        self._indices = indices
        self._parts = parts

    @classmethod
    def of(cls, session: Any) -> Refusals:
        """What a session does about its refusals."""
        weights = session.loss_weights.current
        culprit = Culprit(session.task, session.precision, session.device, weights)
        return cls(
            session.run_dir,
            session.events,
            session.state,
            culprit,
            indices=session.loader.indices,
            parts=session.micro.parts,
        )

    def __call__(
        self,
        reading: Reading,
        first_batch: int,
        window: Sequence[Any],
        scale: float | None,
    ) -> Evidence:
        """Name, keep and look into a window; only name it if a loss scale settles."""
        evidence = Evidence()
        settles = is_settling(reading, scale)
        if not settles:
            culprit = None
            if self._state.consecutive_skipped == 0:
                culprit = self._culprit.find(self._parts(list(window)))
            evidence = Evidence(*self._batches.save(reading.step, window), culprit)
        self._events.write(
            "refused",
            step=reading.step,
            epoch=self._state.epoch,
            loss=reading.loss,
            grad_norm=reading.grad_norm,
            culprit=evidence.culprit,
            settling_scale=scale if settles else None,
            indices=self._indices_of(range(first_batch, first_batch + len(window))),
            batch_file=str(evidence.path) if evidence.path else None,
            how_to_load=evidence.how_to_load,
        )
        return evidence

    def _indices_of(self, batches: range) -> list[int] | None:
        found: list[int] = []
        for number in batches:
            indices = self._indices(number)
            if indices is None:
                return None
            found += indices
        return found

    def _warn(self, text: str) -> None:
        self._events.write("message", level="warning", text=text)
