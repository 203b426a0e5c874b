"""Out of memory: free, split the batches, go on with the same samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import batch_size
from nbutils.train.buffers import LiveBuffers

__all__ = ["MicroBatches", "is_out_of_memory", "split_batch"]

SPELLINGS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is an allocation that failed, in any of its spellings."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in SPELLINGS)


def split_batch(batch: Any, num_parts: int) -> list[Any]:
    """The batch in at most ``num_parts`` runs of samples, order kept.

    Values without a sample axis (scalars, plain objects) go to every part.
    """
    size = batch_size(batch)
    edges = torch.linspace(0, size, min(num_parts, size) + 1).round().long().tolist()
    return [_cut(batch, size, start, stop) for start, stop in pairwise(edges)]


def _cut(value: Any, size: int, start: int, stop: int) -> Any:
    if hasattr(value, "to_data_list"):  # a batch of PyG graphs
        return type(value).from_data_list(value.to_data_list()[start:stop])
    if isinstance(value, Tensor):
        has_samples = value.ndim > 0 and value.shape[0] == size
        return value[start:stop] if has_samples else value
    if isinstance(value, Mapping):
        cut = {key: _cut(item, size, start, stop) for key, item in value.items()}
        kind: Any = type(value)
        return cut if kind is dict else kind(cut)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_cut(item, size, start, stop) for item in value))
    if isinstance(value, list) and len(value) == size and isinstance(value[0], str):
        return value[start:stop]
    if isinstance(value, (list, tuple)):
        return type(value)(_cut(item, size, start, stop) for item in value)
    return value


class MicroBatches:
    """Runs a window whole, or in parts once a whole one did not fit.

    The learnt number of parts stays for the rest of the run. The random state is
    kept before each attempt and the buffers before each window, so that a second
    attempt draws and averages exactly as the first did.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        buffers: LiveBuffers,
        *,
        enabled: bool,
        on_split: Callable[[int], None],
    ) -> None:
        self.num_parts = 1
        self._model = model
        self._device = device
        self._buffers = buffers
        self._enabled = enabled
        self._on_split = on_split

    def run(self, window: list[Any], accumulate: Callable[[list[Any]], Any]) -> Any:
        """``accumulate`` over the parts of ``window``.

        Raises:
            RuntimeError: Not even one sample at a time fits, or splitting is off.
        """
        while True:
            kept = self._keep() if self._enabled else None
            try:
                return accumulate(self._parts(window))
            except (RuntimeError, MemoryError) as error:
                largest = max(batch_size(batch) for batch in window)
                can_split = self._enabled and self.num_parts < largest
                if not can_split or not is_out_of_memory(error):
                    raise
            self.num_parts *= 2  # outside the handler: its frames hold activations
            self._restore(kept)
            self._on_split(-(-largest // self.num_parts))

    def _parts(self, window: list[Any]) -> list[Any]:
        if self.num_parts == 1:
            return window
        return [part for batch in window for part in split_batch(batch, self.num_parts)]

    def _keep(self) -> Any:
        cuda = self._device.type == "cuda"
        device_rng = torch.cuda.get_rng_state(self._device) if cuda else None
        return torch.get_rng_state(), device_rng

    def _restore(self, kept: Any) -> None:
        rng, device_rng = kept
        self._model.zero_grad(set_to_none=True)
        torch.set_rng_state(rng)
        if device_rng is not None:
            torch.cuda.set_rng_state(device_rng, self._device)
            torch.cuda.empty_cache()
        self._buffers.restore()
