"""A short hash of what is trained: model, loss, data. It draws no randomness."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from nbutils.data.batch import describe, tensors
from nbutils.data.rng import preserved_rng, seed_rng
from nbutils.data.sources import num_samples

__all__ = ["describe_code", "describe_data", "describe_model", "hash_parts"]

_MAX_BYTES = 1 << 20


def hash_parts(parts: Iterator[str]) -> str:
    """Sixteen hex digits of SHA-256 over the parts and their boundaries."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def describe_model(model: nn.Module) -> Iterator[str]:
    """Class and code of the model, then name, shape and dtype of each parameter."""
    yield from describe_code("model", type(model))
    for name, parameter in model.named_parameters():
        shape = "lazy" if nn.parameter.is_lazy(parameter) else tuple(parameter.shape)
        yield f"{name} {shape} {parameter.dtype} {parameter.requires_grad}"


def describe_code(name: str, function: Callable[..., Any] | None) -> Iterator[str]:
    """Source code of a function or class where it can be had, else its name."""
    yield name
    while isinstance(function, functools.partial):
        yield f"{_plain(function.args)} {_plain(function.keywords)}"
        function = function.func
    if isinstance(function, nn.Module):
        yield f"{function!r} {_plain(vars(function))}"
        function = type(function)
    elif function is not None and not hasattr(function, "__qualname__"):
        function = type(function)  # an object with __call__
    yield f"{getattr(function, '__module__', '')}.{_qualified_name(function)}"
    try:
        yield inspect.getsource(function)  # type: ignore[arg-type]
    except (OSError, TypeError):
        yield "no source"  # builtins, and code typed at a prompt


def _plain(value: object) -> str:
    """Text of plain values; of others the type, since a repr may hold an address."""
    if isinstance(value, Mapping):
        items = (f"{key}={_plain(value[key])}" for key in sorted(value, key=str))
        return f"{{{', '.join(items)}}}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_plain, value))}]"
    if value is None or isinstance(value, (str, bool, int, float, complex)):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _qualified_name(function: object) -> str:
    return str(getattr(function, "__qualname__", ""))


def describe_data(name: str, data: Any) -> Iterator[str]:
    """Type and length of the data, and its first sample; a stream is not opened."""
    yield name
    if isinstance(data, DataLoader):
        yield f"DataLoader {data.batch_size} {data.drop_last}"
        data = data.dataset
    yield f"{type(data).__module__}.{type(data).__qualname__} {num_samples(data)}"
    if data is None or isinstance(data, IterableDataset):
        return
    with preserved_rng(), torch.no_grad():
        seed_rng(0)  # a random transform gives the same first sample each time
        sample = data[0]
    yield from _describe_sample(sample)


def _describe_sample(sample: Any) -> Iterator[str]:
    yield from (f"{path} {text}" for path, text in describe(sample).items())
    for path, tensor in tensors(sample):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8)[:_MAX_BYTES].numpy().tobytes()
        yield f"{path} {hashlib.sha256(data).hexdigest()}"
    if isinstance(sample, (tuple, list)):
        for value in sample:
            if isinstance(value, (str, int, float, np.generic)):
                yield repr(value)
