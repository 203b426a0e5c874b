"""How many samples a batch holds, and which lists in it have one entry a sample.

A batch is made of *columns*, tensors of shape ``(B, ...)``, or of *rows*, lists with
one entry a sample, or of both. A form cannot always be told from one batch alone: then
columns go before rows, and the first tensor before the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from nbutils.data.containers import is_container, is_record, parts
from nbutils.data.graphs import is_graph
from nbutils.errors import ContractError

__all__ = ["batch_size", "has_rows"]

Costs = dict[int, int]
"""Sizes that a part of a batch could have, and how far-fetched each one is."""


def batch_size(batch: Any) -> int:
    """Number of samples in a batch: of a batch of graphs, the number of graphs.

    Raises:
        ContractError: The batch holds nothing that has one entry a sample.
    """
    size = _size_of_columns(batch)
    if size is None:
        size = _likeliest(batch)
    if size is None:
        raise ContractError(
            f"the size of this batch cannot be told: {type(batch).__name__} holds no "
            "tensor with a batch dimension, no graphs and no list of strings. Return "
            "tensors of shape (B, ...) from collate, or pass count_targets=."
        )
    return size


def has_rows(value: Any, size: int, *, is_top: bool = False) -> bool:
    """Whether this list or tuple, within a batch of ``size``, has one entry a sample.

    Plain numbers in a tuple say nothing (an image size, for instance): False.
    """
    if len(value) != size or hasattr(value, "_fields"):
        return False
    if not any(_counts(entry) for entry in value):
        return isinstance(value, list) or not all(map(_is_number, value))
    if all(is_graph(entry) and not hasattr(entry, "num_graphs") for entry in value):
        return True
    costs = [costs for costs in map(_costs, value) if costs is not None]
    if not costs or any(size not in cost for cost in costs):
        return True
    is_listing = _are_like_mappings(value) and size > 1
    return is_listing and not (is_top and _only_columns(value))


def _size_of_columns(batch: Any) -> int | None:
    """The common case, fast: tensors side by side, equally long."""
    kind = type(batch)
    if kind is tuple or kind is list:
        columns = batch
    elif kind is dict:
        columns = batch.values()
    else:
        return int(batch.shape[0]) if isinstance(batch, Tensor) and batch.ndim else None
    size = None
    for column in columns:
        if not isinstance(column, Tensor) or not column.ndim:
            return None
        if size is None:
            size = column.shape[0]
        elif column.shape[0] != size:
            return None
    return size


def _likeliest(batch: Any) -> int | None:
    weak: list[int] = []
    costs = _costs(batch, weak, is_top=True)
    if costs is None:
        return weak[0] if weak else None
    return min(costs, key=lambda size: costs[size] + 2 * sum(n != size for n in weak))


_ROWS_OF_MAPPINGS, _ROWS, _COLUMNS_OF_MAPPINGS = 0, 1, 2


def _costs(
    value: Any, weak: list[int] | None = None, *, is_top: bool = False
) -> Costs | None:
    """Sizes by the strong evidence in ``value``; lists of plain values go to ``weak``.

    None if it says nothing: a number, a scalar tensor, an empty list.
    """
    weak = [] if weak is None else weak
    size = _own_size(value)
    if size is not None:
        return {size: 0}
    children = [child for _, child in parts(value)]
    is_sequence = isinstance(value, (list, tuple)) and not hasattr(value, "_fields")
    if not any(_counts(child) for child in children):
        is_told = isinstance(value, list) or all(isinstance(v, str) for v in children)
        if is_sequence and is_told and children:
            weak.append(len(children))
        return None
    found = [_costs(child, weak) for child in children]
    columns = _common([costs for costs in found if costs is not None])
    if is_sequence and _can_be_rows(value, is_top=is_top, agree=bool(columns)):
        return _rows_or_columns(children, columns or {})
    return columns or next((costs for costs in found if costs is not None), None)


def _counts(value: Any) -> bool:
    return is_container(value) or isinstance(value, np.ndarray)


def _own_size(value: Any) -> int | None:
    """Entries of a tensor, an array or a batch of graphs."""
    if isinstance(value, (Tensor, np.ndarray)):
        return int(value.shape[0]) if value.ndim else None
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    num_graphs = getattr(value, "num_graphs", None)
    return None if num_graphs is None else int(num_graphs)


def _rows_or_columns(children: list[Any], columns: Costs) -> Costs:
    rows = {len(children): _cost_as_rows(children)}
    if any(is_graph(child) for child in children):
        return rows
    if _are_like_mappings(children) and len(children) > 1:
        columns = {n: cost + _COLUMNS_OF_MAPPINGS for n, cost in columns.items()}
    return {**rows, **columns}


def _common(found: list[Costs]) -> Costs | None:
    if not found:
        return None
    shared = [n for n in found[0] if all(n in costs for costs in found)]
    return {n: sum(costs[n] for costs in found) for n in shared}


def _can_be_rows(value: Sequence[Any], *, is_top: bool, agree: bool) -> bool:
    """Whether the entries are of one form, as the samples of one dataset are."""
    if all(is_graph(entry) and not hasattr(entry, "num_graphs") for entry in value):
        return True
    if _are_like_mappings(value) or all(is_record(entry) for entry in value):
        return not is_top or (len(value) > 1 and not (agree and _only_columns(value)))
    if all(isinstance(entry, (Tensor, np.ndarray)) for entry in value):
        # On top, tensors of different lengths are rather two columns than two samples.
        return not is_top or (isinstance(value, list) and _is_ragged(value))
    kind = type(value[0])
    is_same = all(type(entry) is kind for entry in value) and kind in (list, tuple)
    return is_same and (not is_top or (len(value) > 1 and not agree))


def _are_like_mappings(value: Sequence[Any]) -> bool:
    if not all(isinstance(entry, Mapping) for entry in value):
        return False
    return all(entry.keys() == value[0].keys() for entry in value)


def _only_columns(value: Sequence[Any]) -> bool:
    """Whether no entry holds a scalar, which a sample has and a column has not."""
    leaves = [leaf for entry in value for _, leaf in parts(entry)]
    return not any(
        _is_number(leaf) or (isinstance(leaf, Tensor) and not leaf.ndim)
        for leaf in leaves
    )


def _is_ragged(tensors: Sequence[Tensor]) -> bool:
    first = tensors[0]
    return len({len(tensor) if tensor.ndim else -1 for tensor in tensors}) > 1 and all(
        tensor.dtype == first.dtype and tensor.shape[1:] == first.shape[1:]
        for tensor in tensors
    )


def _cost_as_rows(value: Sequence[Any]) -> int:
    is_sure = _are_like_mappings(value) and len(value) > 1
    return _ROWS_OF_MAPPINGS if is_sure else _ROWS


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex))
