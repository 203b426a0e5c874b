"""The containers a batch may be made of: their parts, and building one anew."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from nbutils.data.graphs import graph_fields, is_graph

__all__ = ["is_container", "is_record", "join", "parts", "rebuild"]


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
    elif is_record(batch):
        yield from ((name, getattr(batch, name)) for name in _fields(batch))


def is_record(value: object) -> bool:
    """Whether ``value`` keeps its parts as attributes: a dataclass, a namespace."""
    if isinstance(value, SimpleNamespace):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def is_container(value: Any) -> bool:
    """Whether ``value`` holds tensors, or is one."""
    if isinstance(value, (Tensor, Mapping, list, tuple)):
        return True
    return is_graph(value) or is_record(value)


def rebuild(container: Any, values: Sequence[Any]) -> Any:
    """A container of the same type whose direct parts are ``values``, in order.

    Not for graphs. A mapping that cannot be written to becomes a dict.
    """
    if isinstance(container, (tuple, list)):
        kind: Any = type(container)
        return kind(*values) if hasattr(container, "_fields") else kind(values)
    if isinstance(container, Mapping):
        found = dict(zip(container, values, strict=True))
        if type(container) is dict or not isinstance(container, MutableMapping):
            return found
        twin: Any = copy.copy(container)
        for key, value in found.items():
            twin[key] = value
        return twin
    twin = copy.copy(container)
    for name, value in zip(_fields(container), values, strict=True):
        object.__setattr__(twin, name, value)  # a frozen dataclass refuses setattr
    return twin


def _fields(record: Any) -> list[str]:
    if isinstance(record, SimpleNamespace):
        return list(vars(record))
    return [field.name for field in dataclasses.fields(record)]
