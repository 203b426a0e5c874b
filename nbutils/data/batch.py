"""What a batch is: its size, its tensors, its description, its move to a device."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from nbutils.data.containers import is_container, is_record, join, parts, rebuild
from nbutils.data.sizes import batch_size

__all__ = [
    "batch_size",
    "describe",
    "describe_tensor",
    "join",
    "parts",
    "tensors",
    "to_device",
]


def tensors(batch: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a batch with its path; a bare tensor has the path ``"batch"``.

    Example:
        >>> [path for path, _ in tensors((torch.ones(2), {"y": torch.ones(2)}))]
        ['0', '1.y']
    """
    if isinstance(batch, Tensor):
        yield path or "batch", batch
        return
    for key, value in parts(batch):
        yield from tensors(value, join(path, key))


def to_device(batch: Any, device: torch.device | str) -> Any:
    """The batch with every tensor on ``device``; containers are new objects.

    Strings, numbers and other plain values pass. Copies to CUDA do not block when the
    source is pinned, those of graphs and of other objects with a ``to`` included.
    """
    return _move(batch, torch.device(device))


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda")
    if type(batch) in (tuple, list):
        return type(batch)([_move(value, device) for value in batch])
    if hasattr(batch, "to"):
        # Batches of graphs move in place and return themselves: move a copy.
        can_queue = device.type == "cuda" and _takes_non_blocking(type(batch))
        options = {"non_blocking": True} if can_queue else {}
        return copy.copy(batch).to(device, **options)
    if isinstance(batch, (Mapping, tuple, list)) or is_record(batch):
        return rebuild(batch, [_move(value, device) for _, value in parts(batch)])
    return batch


@lru_cache(maxsize=64)
def _takes_non_blocking(kind: type) -> bool:
    """Whether its ``to`` can be told not to wait for the copy."""
    if issubclass(kind, PackedSequence):
        return True  # hands its keywords on
    try:
        return "non_blocking" in inspect.signature(getattr(kind, "to", None)).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def describe_tensor(tensor: Tensor) -> str:
    """Dtype and shape.

    Example:
        >>> describe_tensor(torch.ones(2, 3))
        'float32 (2, 3)'
    """
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def describe(batch: Any) -> dict[str, str]:
    """Path of each part of a batch -> dtype and shape; for texts "list of 4 str"."""
    return dict(_describe(batch, ""))


def _describe(batch: Any, path: str) -> Iterator[tuple[str, str]]:
    here = path or "batch"
    if isinstance(batch, Tensor):
        yield here, describe_tensor(batch)
    elif isinstance(batch, (list, tuple)) and not any(is_container(v) for v in batch):
        kinds = " or ".join(sorted({type(value).__name__ for value in batch}))
        yield here, f"{type(batch).__name__} of {len(batch)} {kinds}".rstrip()
    elif is_container(batch):
        for key, value in parts(batch):
            yield from _describe(value, join(path, key))
    else:
        yield here, type(batch).__name__
