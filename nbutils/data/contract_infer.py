"""Symbols for the sizes that vary, found by comparing batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nbutils.data.batch import batch_size, join, parts, tensors
from nbutils.data.graphs import graph_symbols, is_graph
from nbutils.errors import ContractError

__all__ = ["infer_specs"]

Dims = tuple[int | str, ...]
Sizes = tuple[int, ...]


@dataclass
class _Symbols:
    """Names of sizes; a size is known by its values over the observed batches."""

    names: dict[Sizes, str] = field(default_factory=dict)
    graph_names: dict[str, dict[Sizes, str]] = field(default_factory=dict)

    def fresh(self, sizes: Sizes) -> str:
        """The symbol of these sizes, a new ``D0``, ``D1``, ... if they have none."""
        if sizes not in self.names:
            number = sum(name.startswith("D") for name in self.names.values())
            self.names[sizes] = f"D{number}"
        return self.names[sizes]


def infer_specs(batches: Sequence[Any]) -> dict[str, tuple[str, Dims]]:
    """Path -> (dtype, dims) that all batches share; see ``Contract.infer``."""
    if not batches:
        raise ContractError(
            "there is no batch to infer a contract from; at least one is expected, "
            "best two of different sizes."
        )
    observed = [dict(tensors(batch)) for batch in batches]
    for number, batch in enumerate(observed):
        _refuse_different(observed[0], batch, number)
    symbols = _Symbols({tuple(batch_size(batch) for batch in batches): "B"})
    _name_graph_sizes(batches, symbols)
    return {
        path: (
            str(tensor.dtype).removeprefix("torch."),
            _dims(path, [batch[path] for batch in observed], symbols),
        )
        for path, tensor in observed[0].items()
    }


def _refuse_different(
    first: dict[str, Tensor], other: dict[str, Tensor], number: int
) -> None:
    odd = set(first) ^ set(other)
    if odd:
        raise ContractError(
            f"batches 0 and {number} hold different tensors: {', '.join(sorted(odd))} "
            "is in one of them only; one structure is expected. Return the same keys "
            "for each sample."
        )
    for path, tensor in first.items():
        twin = other[path]
        if tensor.dtype != twin.dtype or tensor.ndim != twin.ndim:
            raise ContractError(
                f"{path} is {tensor.dtype} with {tensor.ndim} dims in batch 0 and "
                f"{twin.dtype} with {twin.ndim} dims in batch {number}; one form is "
                "expected. Convert in the dataset or in collate."
            )


def _graphs(batch: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if is_graph(batch):
        yield path, batch
    elif not isinstance(batch, Tensor):
        for key, value in parts(batch):
            yield from _graphs(value, join(path, key))


def _name_graph_sizes(batches: Sequence[Any], symbols: _Symbols) -> None:
    """Name nodes, edges and pointers of a graph N, E, P; of a second one N1, E1, P1."""
    for rank, (path, _) in enumerate(_graphs(batches[0])):
        sizes = [graph_symbols(dict(_graphs(batch))[path]) for batch in batches]
        symbols.graph_names[path] = {
            tuple(size[name] for size in sizes): f"{name}{rank or ''}"
            for name in reversed(sizes[0])
        }


def _dims(path: str, observed: Sequence[Tensor], symbols: _Symbols) -> Dims:
    graph_path = path.rpartition(".")[0]
    in_graph = symbols.graph_names.get(graph_path, {})
    # Graphs keep edge indices as (2, E).
    item_axis = 1 if in_graph and path.endswith("index") else 0
    dims: list[int | str] = []
    for axis in range(observed[0].ndim):
        sizes = tuple(tensor.shape[axis] for tensor in observed)
        varies = len(set(sizes)) > 1
        # A size that never varied may equal the batch size by chance (3 samples,
        # 3 channels): only the axis that carries samples, nodes or edges is trusted.
        is_trusted = varies or axis == item_axis
        if sizes in in_graph and is_trusted:
            dims.append(in_graph[sizes])
        elif sizes in symbols.names and is_trusted:
            dims.append(symbols.names[sizes])
        else:
            dims.append(symbols.fresh(sizes) if varies else sizes[0])
    return tuple(dims)
