"""The update when memory runs out in it: nothing can be split, no weight is harmed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nbutils.environment.limits import available_memory_bytes
from nbutils.train.memory_errors import OutOfMemoryProblem, is_out_of_memory
from nbutils.train.update import HostUpdate, drop_gradients

__all__ = ["CarefulUpdate"]

MAX_MEMORY_SHARE = 0.25


class CarefulUpdate:
    """An update that can be taken back as long as it makes the optimizer's state.

    An optimizer makes its moments in the first step, group by group, and moves each
    group before it goes on to the next. So the first update has a copy of the weights
    on the host, where a quarter of the free memory holds it.
    """

    def __init__(self, update: HostUpdate) -> None:
        self._update = update
        self._is_first = True

    def __call__(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Apply or refuse the update, as :class:`HostUpdate` does.

        Raises:
            OutOfMemoryProblem: The optimizer found no memory.
        """
        if self._is_first:
            return self._first(loss)
        try:
            return self._update(loss)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryProblem(
                _text("some weights may have moved: resume from the last checkpoint")
            ) from error

    def _first(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        self._is_first = False
        optimizer = self._update.optimizer
        if optimizer.state:  # resumed: nothing is left to be made
            return self(loss)
        weights: list[Tensor] = [p for g in optimizer.param_groups for p in g["params"]]
        versions = [weight._version for weight in weights]
        copies = _copies(weights)
        try:
            return self._update(loss)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            have_moved = versions != [weight._version for weight in weights]
            self._take_back(weights, copies)
            is_safe = copies is not None or not have_moved
            self._is_first = is_safe
            told = "are unharmed" if is_safe else "moved in part: build the model anew"
            raise OutOfMemoryProblem(_text(f"the weights {told}")) from error

    @torch.no_grad()
    def _take_back(self, weights: list[Tensor], copies: list[Tensor] | None) -> None:
        optimizer: Any = self._update.optimizer
        for weight, copy in zip(weights, copies or (), strict=False):
            weight.copy_(copy)
        optimizer.state.clear()
        drop_gradients(optimizer)


def _copies(weights: list[Tensor]) -> list[Tensor] | None:
    needed = sum(weight.numel() * weight.element_size() for weight in weights)
    if needed > MAX_MEMORY_SHARE * available_memory_bytes():
        return None
    return [weight.detach().to("cpu", copy=True) for weight in weights]


def _text(weights: str) -> str:
    return (
        "out of memory in the optimizer's step, which no smaller batch makes cheaper: "
        f"its state needs that memory whatever the batch; {weights}. Use an 8-bit "
        "optimizer (optimizer='adamw8bit'), optimizer='sgd', a smaller model, or free "
        "memory with gradient_checkpointing=True."
    )
