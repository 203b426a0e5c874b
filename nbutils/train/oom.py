"""Out of memory: free, split the batches, go on with the same samples."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nbutils.data.task import Task
from nbutils.errors import ContractError
from nbutils.train.buffers import LiveBuffers
from nbutils.train.draws import Draws
from nbutils.train.memory_errors import (
    OutOfMemoryProblem,
    free_memory,
    is_out_of_memory,
    release,
)
from nbutils.train.split import size_of, split_batch
from nbutils.train.update import drop_gradients

__all__ = ["MicroBatches", "Pieces", "is_out_of_memory", "split_batch"]


LONELY = "Expected more than 1 value per channel when training"


class _Limit:
    """The largest number of samples that is tried at once; it only ever shrinks.

    Attributes:
        samples: That number; none as long as whole batches fit.
        has_fitted: Whether work came through with it, in this run or an earlier one.
    """

    def __init__(
        self,
        task: Task | None,
        on_split: Callable[[int], None],
        on_repeat: Callable[[bool], None] | None = None,
        *,
        has_targets: bool = True,
    ) -> None:
        self.samples: int | None = None
        self.has_fitted = False
        self._on_repeat = on_repeat
        self._is_told = False
        self._has_targets = has_targets
        self._task = task
        self._contract = None if task is None else task.contract
        self._on_split = on_split

    def parts(self, batch: Any) -> list[Any]:
        """The batch, in as few runs of samples as the limit allows."""
        return [batch] if self.samples is None else self._cut(batch, self.samples)

    def _cut(self, batch: Any, samples: int) -> list[Any]:
        size = size_of(batch, self._contract)
        if size <= samples:
            return [batch]
        return split_batch(batch, -(-size // samples), self._contract)

    def largest(self, batches: Iterable[Any]) -> int:
        """Samples in the largest of the batches."""
        return max(size_of(batch, self._contract) for batch in batches)

    def relent(
        self, batches: Iterable[Any], error: BaseException, *, is_repeat: bool
    ) -> bool:
        """After a failure: the same once more, or half of it.

        A size that fitted before may fail for a moment, while memory lies in fragments
        or another process holds it; so may one that cannot be halved.

        Args:
            batches: What is left to do.
            error: Why the attempt failed.
            is_repeat: Whether that attempt was a second one already.

        Returns:
            Whether the next attempt is the same again.

        Raises:
            OutOfMemoryProblem: The second attempt at one sample failed, or at batches
                that cannot be split.
        """
        if self.has_fitted and not is_repeat:
            return self._repeat()
        try:
            smaller = self._smaller(batches)
        except ContractError as reason:
            if not is_repeat:
                return self._repeat()
            raise _refusal(str(reason)) from error
        self.samples, self.has_fitted, self._is_told = smaller, False, False
        self._on_split(smaller)
        return False

    def _repeat(self) -> bool:
        if self._on_repeat is not None:
            self._on_repeat(not self._is_told)
        self._is_told = True
        return True

    def _smaller(self, batches: Iterable[Any]) -> int:
        """Half of what was tried.

        Raises:
            ContractError: A part is one sample already, or the batches cannot be split.
        """
        tried = self.largest(batches)
        tried = tried if self.samples is None else min(self.samples, tried)
        if tried <= 1:
            raise ContractError("not even one sample at a time fits")
        smaller = -(-tried // 2)
        self._refuse_interaction()
        for batch in batches:
            self._refuse_lost_targets(batch, self._cut(batch, smaller))
        return smaller

    def _refuse_interaction(self) -> None:
        if self._task is not None and "samples interact" in self._task.declares:
            raise ContractError(
                "the task declares that the samples of a batch interact, so a smaller "
                "batch is another loss"
            )

    def _refuse_lost_targets(self, batch: Any, parts: list[Any]) -> None:
        """Law 1 holds for parts whose targets add up; if they do not, say so."""
        if self._task is None or not self._has_targets:
            return
        whole = self._task.num_targets(batch)
        counts = [self._task.num_targets(part) for part in parts]
        if sum(counts) != whole:
            raise ContractError(
                f"its parts count {' + '.join(map(str, counts))} targets, and the "
                f"whole batch {whole}; equal sums are expected. Let count_targets "
                "count over samples (mask.sum(), len(labels)), or declare with "
                "contract= where the samples lie"
            )


def _refusal(reason: str) -> OutOfMemoryProblem:
    problem = OutOfMemoryProblem(
        f"out of memory, and splitting the batch is no way out: {reason.rstrip('.')}. "
        "The weights are as they were before this batch. Use a smaller batch_size (and "
        "more accumulation, for the same effective batch), shorter or smaller inputs, "
        "gradient_checkpointing=True or a smaller model, and run again to resume."
    )
    problem.is_undone = True
    return problem


class MicroBatches:
    """Runs a window whole, or in parts once a whole one did not fit.

    The learnt micro-batch stays for the rest of the run and is in its snapshots. The
    random state is kept before each attempt and the buffers before each window, so that
    a second attempt draws and averages exactly as the first did. What fitted before is
    tried a second time before it is split, as is what cannot be split.

    Args:
        model: Whose partial gradients are dropped.
        device: Where it runs.
        buffers: Kept by the caller before each window.
        enabled: Whether to split at all.
        on_split: Told the new micro-batch, in samples, before it is tried.
        task: Says how its batches are counted and cut.
        optimizer: Whose partial gradients are dropped as well.
        on_repeat: Told when a window is tried a second time as it is, and whether
            for the first time at this micro-batch.

    Attributes:
        on_learnt: Told a micro-batch that has just been found to fit, and the size of
            the batch that did not.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        buffers: LiveBuffers,
        *,
        enabled: bool,
        on_split: Callable[[int], None],
        task: Task | None = None,
        optimizer: Optimizer | None = None,
        on_repeat: Callable[[bool], None] | None = None,
    ) -> None:
        self.on_learnt: Callable[[int, int], None] | None = None
        self._limit = _Limit(task, on_split, on_repeat)
        loss = None if task is None else task.loss
        self._modules = [m for m in (model, loss) if isinstance(m, nn.Module)]
        self._optimizer = optimizer
        self._device = device
        self._buffers = buffers
        self._enabled = enabled
        self._draws = Draws(device)

    @property
    def is_enabled(self) -> bool:
        """Whether batches are split at all."""
        return self._enabled

    @property
    def micro_batch(self) -> int | None:
        """Most samples that are backpropagated at once; none: whole batches."""
        return self._limit.samples

    def start_at(self, micro_batch: int | None) -> None:
        """Use a micro-batch that an earlier run has learnt."""
        if self._enabled:
            self._limit.samples = micro_batch
            self._limit.has_fitted = micro_batch is not None

    def run(self, window: list[Any], accumulate: Callable[[list[Any]], Any]) -> Any:
        """``accumulate`` over the parts of ``window``.

        What is learnt on the way is forgotten if the window does not come through.

        Raises:
            OutOfMemoryProblem: Not even one sample at a time fits, or the batches
                cannot be split; model and generators are as before the window.
        """
        if not self._enabled:
            return accumulate(window)
        limit = self._limit
        before, has_fitted = limit.samples, limit.has_fitted
        try:
            done = self._retry(window, accumulate)
        except Exception:
            limit.samples, limit.has_fitted = before, has_fitted
            raise
        limit.has_fitted = True
        if limit.samples != before and self.on_learnt is not None:
            self.on_learnt(limit.samples or 1, limit.largest(window))
        return done

    def _retry(self, window: list[Any], accumulate: Callable[[list[Any]], Any]) -> Any:
        outside = sys.exc_info()[1]
        is_repeat = False
        while True:
            kept = self._draws.keep()
            try:
                done = accumulate(self.parts(window))
                break
            except Exception as error:
                if not is_out_of_memory(error, outside):
                    self._explain_lonely(error, kept)
                    raise
                self._restore(kept)
                is_repeat = self._limit.relent(window, error, is_repeat=is_repeat)
                release(error, outside)
            free_memory(self._device)  # outside the handler: it holds the error
        self._draws.settle(kept)
        return done

    def parts(self, window: list[Any]) -> list[Any]:
        """The batches of ``window``, each in as few parts as are known to fit."""
        if self._limit.samples is None:
            return window
        return [part for batch in window for part in self._limit.parts(batch)]

    def _explain_lonely(self, error: Exception, kept: Any) -> None:
        """A part of one sample is one too few for BatchNorm over plain features."""
        if self._limit.samples is not None and LONELY in str(error):
            self._restore(kept)
            raise _refusal(
                f"batches are split into micro-batches of {self._limit.samples}, which "
                "leaves a part of one sample, and BatchNorm needs two"
            ) from error

    def _restore(self, kept: Any) -> None:
        for module in self._modules:
            module.zero_grad(set_to_none=True)
        if self._optimizer is not None:  # may own parameters of neither
            drop_gradients(self._optimizer)
        self._draws.restore(kept)
        self._buffers.restore()

    def state_dict(self) -> dict[str, Any]:
        """The learnt micro-batch, so that a resumed run splits as this one does."""
        return {
            "micro_batch": self._limit.samples,
            "has_fitted": self._limit.has_fitted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._limit.samples = state["micro_batch"]
        self._limit.has_fitted = state.get("has_fitted", False)


class Pieces:
    """Runs batches without gradients whole, or in pieces once one did not fit.

    What it learns is its own: validation needs far less memory than training.

    Args:
        device: Where the model runs.
        task: Says how its batches are counted and cut.
        enabled: Whether to split at all.
        on_split: Told the new piece size, in samples, before it is tried.
        has_targets: Whether batches hold targets, which must add up over the pieces.
        on_repeat: Told when a piece is tried a second time as it is, and whether for
            the first time at this size.
    """

    def __init__(
        self,
        device: torch.device,
        task: Task,
        *,
        enabled: bool = True,
        on_split: Callable[[int], None],
        has_targets: bool = True,
        on_repeat: Callable[[bool], None] | None = None,
    ) -> None:
        self._limit = _Limit(task, on_split, on_repeat, has_targets=has_targets)
        self._device = device
        self._enabled = enabled
        self._draws = Draws(device)

    def run(
        self, batch: Any, attempt: Callable[[Any], Any], commit: Callable[[Any], None]
    ) -> None:
        """``attempt`` each piece, then ``commit`` its result, exactly once.

        Raises:
            OutOfMemoryProblem: Not even one sample at a time fits, or the batch cannot
                be split.
        """
        outside = sys.exc_info()[1]
        waiting = deque(self._limit.parts(batch))
        is_repeat = False
        while waiting:
            result = None  # before the attempt: the last one's outputs may be large
            kept = self._draws.keep() if self._enabled else None
            try:
                result = attempt(waiting[0])
            except Exception as error:
                if not self._enabled or not is_out_of_memory(error, outside):
                    raise
                self._draws.restore(kept)
                is_repeat = self._limit.relent(waiting, error, is_repeat=is_repeat)
                release(error, outside)
                waiting = deque(p for left in waiting for p in self._limit.parts(left))
            else:
                waiting.popleft()
                self._limit.has_fitted, is_repeat = True, False
                commit(result)
                continue
            free_memory(self._device)

    def state_dict(self) -> dict[str, Any]:
        """The learnt piece size, so that a resumed run evaluates as this one does."""
        return {"piece": self._limit.samples, "has_fitted": self._limit.has_fitted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._limit.samples = state["piece"]
        self._limit.has_fitted = state.get("has_fitted", False)
