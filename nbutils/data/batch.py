"""What a batch is: its size, its tensors, its description, its move to a device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from nbutils.data.graphs import graph_fields, is_graph
from nbutils.errors import ContractError

__all__ = [
    "batch_size",
    "describe",
    "describe_tensor",
    "join",
    "parts",
    "tensors",
    "to_device",
]


def join(path: str, key: object) -> str:
    """Path of a part of a batch: ``"0"``, ``"0.image"``."""
    return f"{path}.{key}" if path else str(key)


def parts(batch: Any) -> Iterator[tuple[str, Any]]:
    """Direct parts of a container with their keys; nothing for anything else."""
    # Cheapest questions first: this runs for each batch.
    if isinstance(batch, (tuple, list)):
        fields = getattr(batch, "_fields", None)
        keys = fields if fields is not None else map(str, range(len(batch)))
        yield from zip(keys, batch, strict=True)
    elif isinstance(batch, Mapping):
        yield from ((str(key), value) for key, value in batch.items())
    elif is_graph(batch):
        yield from graph_fields(batch)


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


def batch_size(batch: Any) -> int:
    """Number of samples in a batch: of a batch of graphs, the number of graphs.

    Raises:
        ContractError: The batch holds nothing that has a first dimension.
    """
    size = _size(batch)
    if size is None:
        size = _num_strings(batch)
    if size is None:
        raise ContractError(
            f"the size of this batch cannot be told: {type(batch).__name__} holds no "
            "tensor with a batch dimension, no graphs and no list of strings. Return "
            "tensors of shape (B, ...) from collate, or pass count_targets=."
        )
    return size


def _size(batch: Any) -> int | None:
    """Size by the first tensor or batch of graphs found, depth first."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else None
    num_graphs = getattr(batch, "num_graphs", None)
    if num_graphs is not None:
        return int(num_graphs)
    found = (_size(value) for _, value in parts(batch))
    return next((size for size in found if size is not None), None)


def _num_strings(batch: Any) -> int | None:
    """Length of the first list of strings found."""
    is_list = isinstance(batch, (list, tuple)) and len(batch) > 0
    if is_list and all(isinstance(value, str) for value in batch):
        return len(batch)
    found = (_num_strings(value) for _, value in parts(batch))
    return next((size for size in found if size is not None), None)


def to_device(batch: Any, device: torch.device | str) -> Any:
    """The batch with every tensor on ``device``; containers are new objects.

    Strings, numbers and other plain values pass. Copies to CUDA do not block when the
    source is pinned.
    """
    return _move(batch, torch.device(device))


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda")
    if type(batch) in (tuple, list):
        return type(batch)([_move(value, device) for value in batch])
    if hasattr(batch, "to"):
        # Batches of graphs move in place and return themselves: move a copy.
        return copy.copy(batch).to(device)
    if isinstance(batch, Mapping):
        moved = {key: _move(value, device) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return moved
        twin = copy.copy(batch)
        twin.update(moved)
        return twin
    if isinstance(batch, (tuple, list)):
        values = [_move(value, device) for value in batch]
        is_named = hasattr(batch, "_fields")
        return type(batch)(*values) if is_named else type(batch)(values)
    return batch


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
    elif isinstance(batch, (list, tuple)) and not any(_is_container(v) for v in batch):
        kinds = " or ".join(sorted({type(value).__name__ for value in batch}))
        yield here, f"{type(batch).__name__} of {len(batch)} {kinds}".rstrip()
    elif _is_container(batch):
        for key, value in parts(batch):
            yield from _describe(value, join(path, key))
    else:
        yield here, type(batch).__name__


def _is_container(value: Any) -> bool:
    return isinstance(value, (Tensor, Mapping, list, tuple)) or is_graph(value)
