"""What may be given as data, and the one form in which it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

__all__ = [
    "Columns",
    "DictDataset",
    "as_source",
    "columns_of",
    "is_plain",
    "num_samples",
]

Columns = tuple[Tensor, ...] | dict[str, Tensor]

_FORMS = (
    "a Dataset, an IterableDataset, a DataLoader, a sequence of samples, a tuple "
    "(X, y) or a dict of equally long tensors"
)


class DictDataset(Dataset[dict[str, Tensor]]):
    """Samples that are dicts, read from equally long tensors in memory."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def as_source(data: Any, name: str, problems: list[str]) -> Any:
    """The data as something that loaders read; what is wrong goes to ``problems``.

    Tensors become a ``TensorDataset`` or a :class:`DictDataset`. A tuple of tensors is
    read as columns. A list is read as samples, save for two to four tensors of
    different kind with one common length, such as ``[X, y]``.

    Args:
        data: Any of the accepted forms.
        name: ``"train_data"`` or alike, for messages.
        problems: Receives one sentence per problem.
    """
    if isinstance(data, Tensor):
        return _from_columns((data,), name, problems)
    if isinstance(data, Mapping):
        return _from_columns(data, name, problems)
    if isinstance(data, tuple) and any(
        isinstance(v, (Tensor, np.ndarray)) for v in data
    ):
        return _from_columns(data, name, problems)
    if isinstance(data, list) and _looks_like_columns(data):
        return _from_columns(tuple(data), name, problems)
    if isinstance(data, (Dataset, DataLoader)):
        _refuse_empty(data, name, problems)
        return data
    is_sequence = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if not is_sequence or isinstance(data, (str, bytes)):
        problems.append(f"{name} is {type(data).__name__}; it must be {_FORMS}.")
    else:
        _refuse_empty(data, name, problems)
    return data


def _looks_like_columns(data: list[Any]) -> bool:
    if not 2 <= len(data) <= 4 or not all(isinstance(v, Tensor) for v in data):
        return False
    if any(v.ndim == 0 for v in data) or len({v.shape[0] for v in data}) != 1:
        return False
    return len({(v.shape[1:], v.dtype) for v in data}) > 1


def _from_columns(
    data: Mapping[Any, Any] | tuple[Any, ...], name: str, problems: list[str]
) -> Any:
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    lengths: dict[Any, int] = {}
    for key, column in items:
        problem = _column_problem(f"{name}[{key!r}]", column)
        if problem:
            problems.append(problem)
            return data
        lengths[key] = column.shape[0]
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key!r}: {length}" for key, length in lengths.items())
        problems.append(
            f"{name} has columns of different lengths ({told}); all must have one row "
            "per sample."
        )
        return data
    if not lengths or not any(lengths.values()):
        problems.append(f"{name} is empty; it must hold at least one sample.")
        return data
    if isinstance(data, Mapping):
        return DictDataset({str(key): column for key, column in data.items()})
    return TensorDataset(*data)


def _column_problem(where: str, column: Any) -> str | None:
    if isinstance(column, Tensor) and column.requires_grad:
        return (
            f"{where} requires a gradient, and data are not trained; a plain tensor is "
            "expected. Give .detach() of it."
        )
    if isinstance(column, Tensor) and column.ndim > 0:
        return None
    advice = "torch.from_numpy(array)" if hasattr(column, "dtype") else "torch.tensor()"
    return (
        f"{where} is {type(column).__name__}; a tensor of shape (num_samples, ...) is "
        f"expected, since the others are columns. Use {advice}."
    )


def _refuse_empty(data: Any, name: str, problems: list[str]) -> None:
    held: Any = data.dataset if isinstance(data, DataLoader) else data
    if not isinstance(held, IterableDataset) and not hasattr(held, "__len__"):
        problems.append(
            f"{name} is {type(held).__name__} without __len__; a map-style dataset "
            "must say how many samples it has. Give it __len__, or make it an "
            "IterableDataset."
        )
    elif num_samples(held) == 0:
        problems.append(f"{name} is empty; it must hold at least one sample.")


def num_samples(data: Any) -> int | None:
    """Length of the data; None for a stream that does not know it."""
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, IterableDataset) and not hasattr(data, "__len__"):
        return None
    held: Any = data
    return len(held) if hasattr(held, "__len__") else None


def is_plain(data: Any) -> bool:
    """Whether reading a sample runs no code of the user, hence draws no randomness."""
    if type(data) is Subset:
        return is_plain(data.dataset)
    return type(data) in (list, tuple, TensorDataset, DictDataset)


def columns_of(data: Any) -> tuple[Columns, Sequence[int] | None] | None:
    """Tensors behind a dataset in memory, and the rows of them that it uses.

    Returns:
        ``(columns, None)`` for all rows, ``(columns, rows)`` for a subset; None when
        the dataset is not made of tensors, or its class may change them on reading.
    """
    if type(data) is TensorDataset:
        return data.tensors, None
    if type(data) is DictDataset:
        return data.columns, None
    if type(data) is Subset:
        inner = columns_of(data.dataset)
        if inner is None:
            return None
        columns, rows = inner
        chosen = [int(index) for index in data.indices]
        return columns, chosen if rows is None else [rows[index] for index in chosen]
    return None
