"""A batch cut into runs of samples, order kept; or why that cannot be done."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from nbutils.data.batch import batch_size, describe_tensor, join, parts, tensors
from nbutils.data.containers import rebuild
from nbutils.data.contract import Contract
from nbutils.data.graphs import is_graph
from nbutils.data.sizes import has_rows
from nbutils.errors import ContractError

__all__ = ["size_of", "split_batch"]

_OFFSETS = re.compile(r"offset|cu_?seq|indptr|row_splits|(^|[._])ptr$")
_NUMBERING = re.compile(r"(^|[._])(batch|batch_?(idx|index|ids?)|segment_?ids?)$")
_ADVICE = (
    "Say where the samples lie with contract=, such as "
    '{"x": "float32 (T, B, D)", "table": "float32 (V, D)"}, or use a smaller '
    "batch_size and more accumulation."
)


def split_batch(
    batch: Any, num_parts: int, contract: Contract | None = None
) -> list[Any]:
    """The batch in at most ``num_parts`` runs of samples, order kept.

    What a contract declares decides: an axis ``B`` is cut, a tensor without one goes
    whole to every part. Where nothing is declared, tensors are cut whose first
    dimension is the batch size, and lists with one entry a sample; other tensors,
    scalars and plain objects go whole to every part.

    Raises:
        ContractError: Samples lie packed in one tensor, or along an axis that cannot
            be told, so that parts of this batch would not be what they seem.
    """
    axes = _declared_axes(contract)
    size = size_of(batch, contract)
    reason = _why_not(batch, size, axes)
    if reason is not None:
        raise ContractError(f"this batch cannot be split: {reason} {_ADVICE}")
    num_parts = min(num_parts, size)
    edges = [number * size // num_parts for number in range(num_parts + 1)]
    cutter = _Cutter(batch, size, axes)
    return [cutter.cut(batch, "", start, stop) for start, stop in pairwise(edges)]


def size_of(batch: Any, contract: Contract | None = None) -> int:
    """Number of samples; along the declared axis ``B`` where there is one.

    Raises:
        ContractError: It cannot be told.
    """
    axes = _declared_axes(contract)
    for path, tensor in tensors(batch) if axes else ():
        axis = axes.get(path)
        if axis is not None and -tensor.ndim <= axis < tensor.ndim:
            return int(tensor.shape[axis])
    return batch_size(batch)


def _declared_axes(contract: Contract | None) -> dict[str, int | None]:
    """Path -> axis of the samples, None for a tensor that has none."""
    specs = {} if contract is None else contract.specs
    if not any("B" in spec.dims for spec in specs.values()):
        return {}
    return {path: _axis(spec.dims) for path, spec in specs.items()}


def _axis(dims: tuple[Any, ...]) -> int | None:
    if "B" not in dims:
        return None
    axis = dims.index("B")
    return axis - len(dims) if "..." in dims[:axis] else axis


class _Cutter:
    """Cuts the same way for every part of one batch."""

    def __init__(self, batch: Any, size: int, axes: dict[str, int | None]) -> None:
        self._size = size
        self._axes = axes
        self._has_columns = any(
            tensor.ndim and tensor.shape[0] == size for _, tensor in tensors(batch)
        )

    def cut(self, value: Any, path: str, start: int, stop: int) -> Any:
        """Samples ``start`` to ``stop`` of ``value``, which lies at ``path``."""
        if isinstance(value, Tensor):
            return self._cut_tensor(value, path or "batch", start, stop)
        if isinstance(value, np.ndarray):
            is_column = value.ndim and len(value) == self._size
            return value[start:stop] if is_column else value
        if hasattr(value, "to_data_list"):  # a batch of PyG graphs
            return _cut_graphs(value, start, stop)
        if is_graph(value):
            return value
        if isinstance(getattr(value, "batch_size", None), torch.Size):
            return value[start:stop]  # a TensorDict
        if isinstance(value, (list, tuple)) and self._has_rows(value, is_top=not path):
            return type(value)(value[start:stop])
        children = list(parts(value))
        if not children:
            return value
        return rebuild(
            value, [self.cut(v, join(path, key), start, stop) for key, v in children]
        )

    def _has_rows(self, value: Any, *, is_top: bool) -> bool:
        is_numbers = isinstance(value, tuple) and all(
            isinstance(entry, (bool, int, float)) for entry in value
        )
        if is_numbers and len(value) == self._size and not hasattr(value, "_fields"):
            return not self._has_columns  # else rather a shape, such as (224, 224)
        return has_rows(value, self._size, is_top=is_top)

    def _cut_tensor(self, value: Tensor, path: str, start: int, stop: int) -> Tensor:
        default = 0 if value.ndim and value.shape[0] == self._size else None
        axis = self._axes.get(path, default)
        if axis is None or not value.ndim:
            return value
        if value.is_nested:
            rows = list(value.unbind())[start:stop]
            return torch.nested.as_nested_tensor(rows, layout=value.layout)
        if value.layout is torch.strided:
            return value.narrow(axis, start, stop - start)
        if value.layout is torch.sparse_coo:
            return value.narrow_copy(axis, start, stop - start)
        coo = value.to_sparse_coo().narrow_copy(axis, start, stop - start)
        return coo.to_sparse(layout=value.layout)


def _cut_graphs(batch: Any, start: int, stop: int) -> Any:
    from torch_geometric.data import Batch

    try:
        graphs = batch.to_data_list()
    except (RuntimeError, AttributeError) as error:
        raise ContractError(
            "this batch cannot be split: its graphs were not joined by "
            f"Batch.from_data_list, so they do not come apart ({error}). Use a smaller "
            "batch_size and more accumulation."
        ) from error
    return Batch.from_data_list(graphs[start:stop])


def _why_not(batch: Any, size: int, axes: Mapping[str, int | None]) -> str | None:
    """A sentence on what in this batch would come apart wrongly."""
    if _holds_packed(batch):
        return "it holds a PackedSequence, in which the samples lie interleaved."
    flat = [
        (path, tensor)
        for path, tensor in _columns(batch, size)
        if path not in axes and tensor.ndim
    ]
    if flat and not axes:
        found = _why_ambiguous(flat, size)
        if found is not None:
            return found
    if all(tensor.shape[0] == size for _, tensor in flat):
        return None
    return next(filter(None, _packings(flat, size)), None)


def _columns(value: Any, size: int, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors outside of rows and graphs, with their paths."""
    if isinstance(value, Tensor):
        yield path or "batch", value
        return
    is_sequence = isinstance(value, (list, tuple))
    if is_graph(value) or (is_sequence and has_rows(value, size, is_top=not path)):
        return
    for key, child in parts(value):
        yield from _columns(child, size, join(path, key))


def _holds_packed(value: Any) -> bool:
    if isinstance(value, PackedSequence):
        return True
    return any(_holds_packed(child) for _, child in parts(value))


def _why_ambiguous(columns: list[tuple[str, Tensor]], size: int) -> str | None:
    odd = [(path, tensor) for path, tensor in columns if tensor.shape[0] != size]
    for path, tensor in odd:
        if tensor.ndim >= 3 and tensor.shape[1] == size:
            return (
                f"'{path}' is {describe_tensor(tensor)} and the batch size is {size}; "
                "the samples seem to lie along its second axis."
            )
    path, first = columns[0]
    others = {tensor.shape[0] for _, tensor in odd}
    is_alone = len(columns) - len(odd) == 1 and first.shape[0] == size
    is_outvoted = len(odd) > 1 and len(others) == 1
    is_sideways = first.ndim > 1 and first.shape[1] in others
    if is_alone and (is_outvoted or is_sideways):
        name, other = odd[0]
        return (
            f"'{path}' is {describe_tensor(first)} and '{name}' is "
            f"{describe_tensor(other)}; which of the sizes is the batch cannot be told."
        )
    return None


def _packings(columns: list[tuple[str, Tensor]], size: int) -> Iterator[str | None]:
    """Tensors that say where samples begin within another one, as CSR offsets do."""
    lengths = {tensor.shape[0] for _, tensor in columns}
    for path, tensor in columns:
        is_integer = not tensor.is_floating_point() and not tensor.is_complex()
        if tensor.ndim != 1 or not is_integer or tensor.dtype is torch.bool:
            continue
        values: list[int] = tensor.tolist()
        others = lengths - {len(values)}
        if values and _marks_samples(path, values, others, size):
            yield (
                f"'{path}' seems to say where the samples lie within a tensor of "
                f"{max(others | {len(values)})} entries, so they are packed."
            )


def _marks_samples(path: str, values: list[int], others: set[int], size: int) -> bool:
    """Whether these are offsets, lengths or the sample number of each entry."""
    if not others:
        return False
    is_sorted = all(a <= b for a, b in pairwise(values))
    if values[0] == 0 and is_sorted:
        is_named = _OFFSETS.search(path.lower()) is not None
        is_rising = all(a < b for a, b in pairwise(values))
        is_sparse = is_rising and len(values) <= values[-1] < max(others)
        if is_named or values[-1] in others or is_sparse:
            return True
        num_marked = values[-1] + 1
        is_numbering = num_marked in others and num_marked == len(set(values))
        is_known = len(values) != size or _NUMBERING.search(path.lower()) is not None
        if is_numbering and is_known and len(values) > num_marked:
            return True
    total = sum(values)
    are_lengths = min(values) >= 0 and max(values) > 1 and len(values) < total
    return are_lengths and total in others
