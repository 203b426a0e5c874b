"""What a model is called with: found out from a real batch, when a format asks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import batch_size
from nbutils.data.graphs import is_graph
from nbutils.errors import ConfigError, ContractError

__all__ = ["Call", "Example"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a model: ``model(*args, **kwargs)``.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        size: Samples in the batch; none where that cannot be told.
        note: What the task does besides this call; empty if nothing.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    note: str = ""

    def run(self, model: Callable[..., Any]) -> Any:
        """Outputs of ``model``."""
        return model(*self.args, **self.kwargs)

    def graph(self) -> str:
        """Class of a graph among the arguments; empty if there is none."""
        return next((type(v).__name__ for v in _leaves(self._all()) if is_graph(v)), "")

    def has_batch_axis(self) -> bool:
        """Whether any argument has the samples along its first axis."""
        return any(self._is_batched(value) for value in _leaves(self._all()))

    def resized(self, size: int) -> Call:
        """The same call with ``size`` samples, taken round and round."""

        def take(tensor: Tensor) -> Tensor:
            if not self._is_batched(tensor):
                return tensor
            return tensor[torch.arange(size) % tensor.shape[0]]

        return self._mapped(take, size)

    def blank(self) -> Call:
        """The same call on zeros: what an exporter keeps must not be data.

        Of a batch of one there are two samples; one alone would be taken for a
        constant.
        """
        size = None if self.size is None else max(2, self.size)

        def zeros(tensor: Tensor) -> Tensor:
            if size is not None and self._is_batched(tensor):
                return tensor.new_zeros((size, *tensor.shape[1:]))
            return torch.zeros_like(tensor)

        return self._mapped(zeros, size)

    def batch_axes(self, model: nn.Module, axis: Any) -> dict[str, Any]:
        """``{0: axis}`` for each batched tensor, by name of the model's parameters."""

        def of(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return type(value)([of(item) for item in value])
            if isinstance(value, Mapping):
                return {key: of(item) for key, item in value.items()}
            return {0: axis} if self._is_batched(value) else None

        bound = inspect.signature(model.forward).bind(*self.args, **self.kwargs)
        return {name: of(value) for name, value in bound.arguments.items()}

    def _is_batched(self, value: Any) -> bool:
        if not isinstance(value, Tensor) or self.size is None or value.ndim == 0:
            return False
        return value.shape[0] == self.size

    def _mapped(self, change: Callable[[Tensor], Tensor], size: int | None) -> Call:
        args, kwargs = _map(self._all(), change)
        return Call(args=args, kwargs=kwargs, size=size, note=self.note)

    def _all(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.args, self.kwargs


class Example:
    """A call of a task's model that is found when it is first asked for.

    Weights alone need no call, and reading a batch may take long.

    Args:
        task: Has ``forward`` and ``forward_function``.
        read_batch: Gives a batch on the CPU.
    """

    def __init__(self, task: Any, read_batch: Callable[[], Any]) -> None:
        self.has_own_forward = task.forward_function is not None
        self._task = task
        self._read_batch = read_batch
        self._found: Call | None = None

    def call(self, model: nn.Module) -> Call:
        """How the task calls ``model``.

        Raises:
            ConfigError: Its own ``forward`` does not call the model just once.
            ContractError: No batch could be read.
        """
        if self._found is None:
            batch = self._batch()
            size = _size(batch)
            if self.has_own_forward:
                self._found = _watched(self._task, model, batch, size)
            else:
                self._found = Call(args=(_first(batch),), size=size)
        return self._found

    def _batch(self) -> Any:
        try:
            return self._read_batch()
        except OSError as error:  # not a fault of the folder that is written to
            raise ContractError(
                f"no batch for the export could be read: {error}. Make the training "
                "data readable, or use formats=('safetensors',), which needs none."
            ) from error


def as_example(inputs: Any) -> Example | Call:
    """``inputs`` themselves, or the call ``model(inputs)``."""
    if isinstance(inputs, (Example, Call)):
        return inputs
    return Call(args=(inputs,), size=_size(inputs))


def _watched(task: Any, model: nn.Module, batch: Any, size: int | None) -> Call:
    """The one call that a task's own ``forward`` makes."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def note(_: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        seen.append((args, kwargs, outputs))

    handle = model.register_forward_hook(note, with_kwargs=True)
    try:
        outputs = task.forward(model, batch)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ConfigError(
            [
                f"the task's own forward= calls the model {len(seen)} times; a format "
                "that holds the computation needs exactly one call model(...). Use "
                "formats=('safetensors',)."
            ]
        )
    args, kwargs, result = seen[0]
    is_all = outputs is result
    note_text = "" if is_all else "without what the task's own forward= does after it"
    return Call(args=args, kwargs=kwargs, size=size, note=note_text)


def _first(batch: Any) -> Any:
    """What the default forward gives the model."""
    if isinstance(batch, (tuple, list)) and len(batch) > 0:
        return batch[0]
    return batch


def _size(batch: Any) -> int | None:
    try:
        return batch_size(batch)
    except ContractError:  # no batch axis: the call is exported for its own sizes
        return None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, change) for item in value))
    if type(value) in (tuple, list):
        return type(value)(_map(item, change) for item in value)
    if type(value) is dict:
        return {key: _map(item, change) for key, item in value.items()}
    return value
