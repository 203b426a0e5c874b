"""A batch of the right form without reading data: from columns, or from a contract."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from nbutils.data.batch import parts, tensors
from nbutils.data.containers import is_container, rebuild
from nbutils.data.contract import Contract
from nbutils.data.graphs import is_graph
from nbutils.data.sources import columns_of

__all__ = ["batch_unread", "resized"]

BARE = "batch"


def batch_unread(task: Any, size: int) -> tuple[Any, str]:
    """A batch on the meta device and where its form is from; or none, and why not.

    Args:
        task: Its data are asked for their shapes and not read.
        size: The configured number of samples.
    """
    batch = _from_columns(task, size)
    if batch is not None:
        return batch, "the tensors that the data is made of"
    if task.contract is None:
        return None, "no sample is read at this depth, and there is no contract"
    return _from_contract(task.contract, size)


def resized(batch: Any, old: int, new: int) -> Any:
    """The batch with every first axis of ``old`` rows made ``new`` long; or none.

    A graph, or a batch without such an axis, cannot be resized so.
    """
    found = [tensor for _, tensor in tensors(batch)]
    if _has_graph(batch) or not any(t.ndim and t.shape[0] == old for t in found):
        return None
    return _resized(batch, old, new)


def _resized(batch: Any, old: int, new: int) -> Any:
    if isinstance(batch, Tensor):
        if not batch.ndim or batch.shape[0] != old or batch.layout != torch.strided:
            return batch
        return torch.empty((new, *batch.shape[1:]), dtype=batch.dtype, device="meta")
    if isinstance(batch, (list, tuple)) and len(batch) == old and not _has(batch):
        return type(batch)((list(batch) * (new // old + 1))[:new])  # texts of samples
    if is_container(batch):
        return rebuild(batch, [_resized(value, old, new) for _, value in parts(batch)])
    return batch


def _has(batch: Any) -> bool:
    return next(iter(tensors(batch)), None) is not None


def _has_graph(batch: Any) -> bool:
    if is_graph(batch):
        return True
    is_leaf = isinstance(batch, Tensor) or not is_container(batch)
    return not is_leaf and any(_has_graph(value) for _, value in parts(batch))


def _from_columns(task: Any, size: int) -> Any:
    """The batch of tensors in memory that are collated as usual; none for others."""
    data = task.train_data
    if isinstance(data, DataLoader):
        size = data.batch_size or 0
        if data.collate_fn is not default_collate:
            return None
        data = data.dataset
    found = None if task.collate is not None or not size else columns_of(data)
    if found is None:
        return None
    columns, rows = found
    named = columns if isinstance(columns, dict) else dict(enumerate(columns))
    count = len(next(iter(named.values()))) if rows is None else len(rows)
    made = [_rows(column, min(size, count)) for column in named.values()]
    if isinstance(columns, dict):
        return dict(zip(named, made, strict=True))
    return tuple(made)


def _rows(column: Tensor, size: int) -> Tensor:
    return torch.empty((size, *column.shape[1:]), dtype=column.dtype, device="meta")


def _from_contract(contract: Contract, size: int) -> tuple[Any, str]:
    made: dict[str, Tensor] = {}
    for path, spec in contract.specs.items():
        sizes = [size if dim == "B" else dim for dim in spec.dims]
        open_dims = [dim for dim in sizes if not isinstance(dim, int)]
        if open_dims or spec.dtype == "any":
            what = f"the size '{open_dims[0]}'" if open_dims else "the dtype"
            return None, f"the contract leaves {what} of '{path}' open"
        dtype = getattr(torch, spec.dtype)
        made[path] = torch.empty(sizes, dtype=dtype, device="meta")  # type: ignore[arg-type]
    return (made[BARE] if list(made) == [BARE] else _nested(made)), "the contract"


def _nested(made: dict[str, Any]) -> Any:
    """Paths such as ``"0.image"`` as the containers that have them."""
    tree: dict[str, Any] = {}
    for path, tensor in made.items():
        node = tree
        *outer, last = path.split(".")
        for key in outer:
            node = node.setdefault(key, {})
        node[last] = tensor
    return _as_tuples(tree)


def _as_tuples(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {key: _as_tuples(value) for key, value in node.items()}
    is_row = sorted(inner) == sorted(map(str, range(len(inner))))
    return tuple(inner[str(i)] for i in range(len(inner))) if is_row else inner
