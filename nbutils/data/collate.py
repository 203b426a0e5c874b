"""Samples into a batch, or a sentence that says which sample does not fit and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbutils.data.batch import join
from nbutils.data.graphs import collate_graphs, is_graph
from nbutils.errors import ContractError

__all__ = ["collate"]


def collate(samples: Sequence[Any]) -> Any:
    """A batch with the structure of the samples.

    Tensors and numpy arrays are stacked, numbers become a tensor, a list of numbers
    becomes a row, strings become a list, graphs a ``Batch``; tuples, named tuples,
    lists and dicts keep their form.

    Args:
        samples: What the dataset returned, at least one.

    Raises:
        ContractError: Samples differ in structure or shape, or hold a type that has no
            batch form; the message names the path and the positions.

    Example:
        >>> collate([(torch.ones(2), 0), (torch.zeros(2), 1)])[1]
        tensor([0, 1])
    """
    if not samples:
        raise ContractError(
            "there are no samples to collate; at least one is expected. "
            "Check the sampler or the dataset that made this batch."
        )
    return _collate(list(samples), "")


def _collate(samples: list[Any], path: str) -> Any:
    _refuse_missing(samples, path)
    first = samples[0]
    for accepts, combine in _RULES:
        if accepts(first):
            _refuse_mixed(samples, accepts, path)
            return combine(samples, path)
    raise ContractError(
        f"{_at(path)} holds {_name(first)}, which has no batch form; tensors, numbers, "
        "strings, arrays, graphs, tuples and dicts have. Convert it in the dataset "
        f"{_advice(first)}or pass collate=."
    )


def _advice(value: object) -> str:
    if type(value).__module__.startswith("PIL"):
        return "(for images: a transform that ends in a float tensor) "
    return ""


def _refuse_missing(samples: list[Any], path: str) -> None:
    for position, sample in enumerate(samples):
        if sample is None:
            raise ContractError(
                f"{_at(path)} is None in sample {position} of the batch; a value is "
                "expected. Let the dataset raise for a sample that it cannot read, or "
                "leave that sample out of its index; None is never skipped in silence."
            )


def _refuse_mixed(
    samples: list[Any], accepts: Callable[[Any], bool], path: str
) -> None:
    kind = type(samples[0])
    for position, sample in enumerate(samples):
        # The same type is the common case, except for rows, which look inside.
        if (type(sample) is not kind or kind is list) and not accepts(sample):
            raise ContractError(
                f"{_at(path)} is {_name(samples[0])} in sample 0 and {_name(sample)} "
                f"in sample {position}; one type is expected. Return the same type for "
                "each sample, or pass collate=."
            )


def _stack(samples: list[Tensor], path: str) -> Tensor:
    shape, dtype = samples[0].shape, samples[0].dtype
    for position, sample in enumerate(samples):
        if sample.shape != shape:
            raise ContractError(
                f"{_at(path)} has shape {tuple(shape)} in sample 0 and "
                f"{tuple(sample.shape)} in sample {position}; equal shapes are "
                "expected. Crop, resize or pad in the dataset, or pass a collate= "
                "that pads."
            )
        if sample.dtype != dtype:
            raise ContractError(
                f"{_at(path)} has dtype {dtype} in sample 0 and "
                f"{sample.dtype} in sample {position}; one dtype is expected. Convert "
                "in the dataset."
            )
    return torch.stack(samples)


def _stack_arrays(samples: list[Any], path: str) -> Tensor:
    tensors = []
    for position, sample in enumerate(samples):
        array = np.asarray(sample)
        if array.dtype.kind not in "biufc":
            raise ContractError(
                f"{_at(path)} is a numpy array of dtype {array.dtype} in sample "
                f"{position}; numbers are expected. Convert it in the dataset, or "
                "pass collate=."
            )
        tensors.append(torch.as_tensor(np.ascontiguousarray(array).copy()))
        if array.ndim == 0:  # ascontiguousarray makes a scalar one-dimensional
            tensors[-1] = tensors[-1].reshape(())
    return _stack(tensors, path)


def _collate_rows(samples: list[Any], path: str) -> Tensor:
    return _stack([torch.tensor(sample) for sample in samples], path)


def _collate_sequence(samples: list[Any], path: str) -> Any:
    first = samples[0]
    for position, sample in enumerate(samples):
        if len(sample) != len(first):
            raise ContractError(
                f"{_at(path)} has {len(first)} parts in sample 0 and {len(sample)} in "
                f"sample {position}; equal lengths are expected. Pad or cut in the "
                "dataset, or pass a collate= that pads."
            )
    is_named = hasattr(first, "_fields")
    keys = first._fields if is_named else range(len(first))
    columns = zip(*samples, strict=True)
    values = [
        _collate(list(column), join(path, key))
        for key, column in zip(keys, columns, strict=True)
    ]
    return type(first)(*values) if is_named else type(first)(values)


def _collate_mapping(samples: list[Any], path: str) -> dict[Any, Any]:
    keys = list(samples[0])
    for position, sample in enumerate(samples):
        odd = set(keys) ^ set(sample)
        if odd:
            names = ", ".join(sorted(repr(key) for key in odd))
            lacking = "0" if set(sample) - set(keys) else str(position)
            raise ContractError(
                f"{_at(path)}: samples 0 and {position} have different keys; {names} "
                f"is missing in sample {lacking}. Return the same keys for each "
                "sample, or pass collate=."
            )
    return {
        key: _collate([sample[key] for sample in samples], join(path, key))
        for key in keys
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, complex)) and not isinstance(value, bool)


def _is_row(value: object) -> bool:
    """A list of numbers, such as token ids."""
    return isinstance(value, list) and all(
        isinstance(item, (bool, int, float, complex)) for item in value
    )


def _is_plain_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


# The first rule that accepts a sample decides; numpy scalars are floats too.
_RULES: tuple[tuple[Callable[[Any], bool], Callable[[list[Any], str], Any]], ...] = (
    (lambda v: isinstance(v, Tensor), _stack),
    (lambda v: isinstance(v, (np.ndarray, np.generic)), _stack_arrays),
    (lambda v: isinstance(v, str), lambda samples, path: list(samples)),
    (lambda v: isinstance(v, bool), lambda samples, path: torch.tensor(samples)),
    (_is_number, lambda samples, path: torch.tensor(samples)),
    (is_graph, collate_graphs),
    (lambda v: isinstance(v, Mapping), _collate_mapping),
    (_is_row, _collate_rows),
    (_is_plain_list, _collate_sequence),
)


def _at(path: str) -> str:
    return f"sample part '{path}'" if path else "the sample"


def _name(value: object) -> str:
    kind = type(value)
    if kind.__module__ in ("builtins", "torch", "numpy"):
        return kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"
