"""Values that a checkpoint can hold: loaded back without executing anything."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.errors import CheckpointError

__all__ = ["from_plain", "refuse_extra_state", "to_host", "to_plain", "why_refused"]

_ARRAY = "__numpy__"
_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_UNSAFE = re.compile(r"GLOBAL (\S+)|[Uu]nsupported (?:class|global) (\S+)")


def to_host(tensor: Tensor) -> Tensor:
    """A copy of ``tensor`` in host memory of its own."""
    return tensor.detach().to("cpu", copy=True)


def to_plain(value: Any, copy_tensor: Callable[[Tensor], Tensor] = to_host) -> Any:
    """A copy of ``value`` on the host, with numpy arrays as marked tensors."""
    if isinstance(value, Tensor):
        return copy_tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        content = torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())
        return {_ARRAY: value.dtype.str, "shape": value.shape, "content": content}
    if isinstance(value, Mapping):
        return {key: to_plain(item, copy_tensor) for key, item in value.items()}
    inner = partial(to_plain, copy_tensor=copy_tensor)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(inner, value))
    if type(value) in (list, tuple):
        items = [inner(item) for item in value]
        return items if type(value) is list else tuple(items)
    return value if isinstance(value, _ATOMS) else copy.deepcopy(value)


def from_plain(value: Any) -> Any:
    """What :func:`to_plain` was given: marked tensors are numpy arrays again."""
    if isinstance(value, dict):
        if _ARRAY in value:
            kind = np.dtype(value[_ARRAY])
            flat = np.frombuffer(value["content"].numpy().tobytes(), kind)
            return flat.reshape(tuple(value["shape"])).copy()
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(from_plain, value))
    if type(value) in (list, tuple):
        return type(value)(map(from_plain, value))
    return value


def refuse_extra_state(model: nn.Module) -> None:
    """Try now what the first save and a resume would do with the extra state.

    Raises:
        CheckpointError: A module's extra state would not load back.
    """
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            continue
        try:
            buffer = io.BytesIO()
            torch.save(to_plain(value), buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except (pickle.PickleError, AttributeError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"'{name}' of the model cannot be saved and loaded back safely: it "
                f"holds {why_refused(error)}. Let get_extra_state() return tensors, "
                "arrays, numbers, strings, lists and dicts."
            ) from error


def why_refused(error: Exception) -> str:
    """The class that a safe load refuses, or the error's first line."""
    found = _UNSAFE.search(str(error))
    if found:
        return f"an object of {(found[1] or found[2]).rstrip('.')}"
    lines = str(error).splitlines() or [type(error).__name__]
    return f"what cannot be stored ({lines[0]})"
