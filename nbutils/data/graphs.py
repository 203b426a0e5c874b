"""Graphs of PyTorch Geometric: recognised without importing it, batched with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from nbutils.errors import ContractError

__all__ = ["collate_graphs", "graph_fields", "graph_symbols", "is_graph"]


def is_graph(value: object) -> bool:
    """Whether ``value`` is a graph, or a batch of graphs, of torch_geometric."""
    return any(
        base.__module__.startswith("torch_geometric.data")
        and base.__name__ in ("BaseData", "Data", "HeteroData")
        for base in type(value).__mro__
    )


def collate_graphs(samples: Sequence[Any], path: str) -> Any:
    """A ``Batch`` of the graphs.

    Args:
        samples: Graphs with the same fields.
        path: Where they lie within a sample, for messages.

    Raises:
        ContractError: A graph lacks a field that the first one has.
    """
    from torch_geometric.data import Batch

    first = set(samples[0].keys())
    for position, sample in enumerate(samples):
        odd = first ^ set(sample.keys())
        if odd:
            names = ", ".join(sorted(map(str, odd)))
            raise ContractError(
                f"{path}: the graphs of samples 0 and {position} have different "
                f"fields ({names}); all graphs of a batch need the same fields. "
                "Set the field on each graph, or pass collate=."
            )
    return Batch.from_data_list(list(samples))


def graph_fields(graph: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field: ``x``, ``edge_index``, ``y`` and so on.

    Fields of a heterogeneous graph are named ``type.field`` and ``a__to__b.field``.
    """
    for store in graph.stores:
        key = getattr(store, "_key", None)
        name = "__".join(key) if isinstance(key, tuple) else key
        for field, value in store.items():
            yield (f"{name}.{field}" if name else str(field)), value


def graph_symbols(graph: Any) -> dict[str, int]:
    """Sizes that differ between batches by nature: nodes N, edges E, pointers P."""
    sizes = {"N": graph.num_nodes, "E": graph.num_edges}
    pointer = getattr(graph, "ptr", None)
    if isinstance(pointer, Tensor):
        sizes["P"] = pointer.shape[0]
    return {name: int(size) for name, size in sizes.items() if size is not None}
