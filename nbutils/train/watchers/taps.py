"""Where a watcher can look into the loop: the feed, a step, an update, a result.

Hooks come after a step, when its gradients are gone. Who needs more asks for the next
one; a step that nobody asked for costs one comparison more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from nbutils.train.step import StepOutcome

__all__ = ["Feed", "ResultTap", "ResultWatcher", "StepTap", "Taps", "UpdateTap"]

Step = Callable[[list[Any]], StepOutcome]


class UpdateWatcher(Protocol):
    """Sees one update from both sides."""

    def before_update(self) -> None:
        """Gradients are complete, scaled by the loss scale and not clipped."""

    def after_update(self, norm: Tensor, refused: Tensor) -> None:
        """Weights have moved, unless ``refused`` is 1; both are ``()``."""


class ResultWatcher(Protocol):
    """Sees what an evaluation computes."""

    def begin_batch(self, indices: list[int] | None) -> None:
        """A batch of these samples comes, in parts if memory is short."""

    def add_result(self, outputs: Any, batch: Any) -> None:
        """Outputs of a batch or a part of it, both on the device."""


class UpdateTap:
    """The update, and those who asked to see the next one."""

    def __init__(self) -> None:
        self._next: list[UpdateWatcher] = []

    def watch_next(self, watcher: UpdateWatcher) -> None:
        """Call ``watcher`` around the next update, once."""
        if watcher not in self._next:
            self._next.append(watcher)

    def around(
        self, update: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The update with this tap in front of it."""

        def tapped(loss: Tensor) -> tuple[Tensor, Tensor]:
            if not self._next:
                return update(loss)
            watchers, self._next = self._next, []
            for watcher in watchers:
                watcher.before_update()
            norm, refused = update(loss)
            for watcher in watchers:
                watcher.after_update(norm, refused)
            return norm, refused

        return tapped


class StepTap:
    """The step, and the one who asked to run the next one."""

    def __init__(self) -> None:
        self._next: Callable[[Step, list[Any]], StepOutcome] | None = None

    def run_next(self, runner: Callable[[Step, list[Any]], StepOutcome]) -> None:
        """Let ``runner(step, window)`` call the next step, once."""
        self._next = runner

    def around(self, step: Step) -> Step:
        """The step with this tap in front of it."""

        def tapped(window: list[Any]) -> StepOutcome:
            runner = self._next
            if runner is None:
                return step(window)
            self._next = None
            return runner(step, window)

        return tapped


class Feed:
    """A loader that knows how long it was waited for.

    Attributes:
        waited_s: Seconds that the loop has waited for batches.
        on_batch: Gets each host batch; none: nobody does.
    """

    def __init__(self) -> None:
        self.waited_s = 0.0
        self.on_batch: Callable[[Any], None] | None = None
        self._loader: Any = None

    def around(self, loader: Any) -> Feed:
        """The loader with the clock in front of it; all else is the loader's own."""
        self._loader = loader
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        started = time.perf_counter()
        iterator = iter(self._loader)
        self.waited_s += time.perf_counter() - started
        return _Waiting(self, iterator)


class _Waiting:
    """An iterator with a clock; it keeps no batch, so that one is freed in time."""

    def __init__(self, feed: Feed, iterator: Iterator[Any]) -> None:
        self._feed = feed
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        feed, started = self._feed, time.perf_counter()
        batch = next(self._iterator)
        feed.waited_s += time.perf_counter() - started
        if feed.on_batch is not None:
            feed.on_batch(batch)
        return batch


class ResultTap:
    """Hands an evaluation's outputs to those who want them."""

    def __init__(self) -> None:
        self.watchers: list[ResultWatcher] = []

    def over(self, loader: Any) -> Iterator[Any]:
        """The loader's batches, each announced with its samples."""
        for number, batch in enumerate(loader):
            indices = loader.indices(number)
            for watcher in self.watchers:
                watcher.begin_batch(indices)
            yield batch

    def add(self, outputs: Any, batch: Any) -> None:
        """Pass on what was computed."""
        for watcher in self.watchers:
            watcher.add_result(outputs, batch)


class Taps:
    """All places where a run can be looked into."""

    def __init__(self) -> None:
        self.update = UpdateTap()
        self.step = StepTap()
        self.feed = Feed()
        self.results = ResultTap()

    def install(self, loop: Any) -> None:
        """Put them into a loop that has not started."""
        inner = replace(loop.step, update=self.update.around(loop.step.update))
        loop.step = self.step.around(inner)
        loop.loader = self.feed.around(loop.loader)
        if self.results.watchers and loop.evaluate is not None:
            loop.evaluate.results = self.results
