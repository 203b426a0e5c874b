"""Weights alone: safetensors, and torch's own ``state_dict``."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nbutils.checkpoint.export.compare import difference
from nbutils.checkpoint.plain import why_refused
from nbutils.checkpoint.snapshot import collect
from nbutils.errors import ConfigError

__all__ = ["save_weights", "write_safetensors", "write_state_dict"]


def save_weights(model: nn.Module, path: Path) -> Path:
    """The model's ``state_dict`` as a file that ``weights_only`` loading accepts.

    Readers see the old file or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        torch.save(_on_host(model), unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_safetensors(
    model: nn.Module, _example: Any, path: Path
) -> tuple[float, list[str]]:
    """Tensors, each storage once; the metadata names what is tied to what.

    Returns:
        0 if all came back bit for bit, else infinity; and what is left out.

    Raises:
        ConfigError: A tensor has a form that the format does not know.
    """
    if odd := _odd_tensor(_state(model)):
        raise ConfigError(
            [
                f"format 'safetensors' cannot hold this {type(model).__name__}: {odd}. "
                "Use formats=('state_dict',)."
            ]
        )
    saved = collect(0, model, {})
    try:
        # the form of safetensors.torch.save_model, which refuses extra state
        save_file(saved.weights, path, metadata={"format": "pt", **saved.aliases})
    except SafetensorError as error:
        raise OSError(str(error)) from error  # the disk; the type hides that
    extra = ", ".join(n for n, v in _state(model).items() if not isinstance(v, Tensor))
    note = (
        f"safetensors holds tensors only: without {extra}; "
        "formats=('state_dict',) holds it all."
    )
    return _gap(model, load_file(path)), [note] if extra else []


def write_state_dict(
    model: nn.Module, _example: Any, path: Path
) -> tuple[float, list[str]]:
    """All of the ``state_dict``, extra state included.

    Raises:
        ConfigError: The extra state would not load back safely.
    """
    torch.save(_on_host(model), path)
    try:
        loaded = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            [
                "format 'state_dict' would not load back safely: the extra state "
                f"holds {why_refused(error)}. Let get_extra_state() return plain "
                "values."
            ]
        ) from error
    return _gap(model, loaded), []


def _on_host(model: nn.Module) -> dict[str, Any]:
    return {
        k: v.cpu() if isinstance(v, Tensor) else v for k, v in _state(model).items()
    }


def _state(model: nn.Module) -> dict[str, Any]:
    return dict(model.state_dict())


def _gap(model: nn.Module, loaded: dict[str, Any]) -> float:
    """0 if every tensor came back bit for bit; tied ones are stored once."""
    own = {k: v for k, v in _state(model).items() if isinstance(v, Tensor)}
    kept = {_place(tensor) for name, tensor in own.items() if name in loaded}
    lost = [n for n, t in own.items() if n not in loaded and _place(t) not in kept]
    back = {k: v for k, v in loaded.items() if isinstance(v, Tensor)}
    same = all(_is_same(own[name].cpu(), tensor) for name, tensor in back.items())
    return 0.0 if same and not lost else float("inf")


def _place(tensor: Tensor) -> int:
    """Where its values lie; tied tensors lie at one place."""
    return tensor.data_ptr() if tensor.layout == torch.strided else id(tensor)


def _is_same(own: Tensor, back: Tensor) -> bool:
    if own.layout != back.layout:
        return False
    if own.layout != torch.strided:
        return difference(own.to_dense(), back.to_dense()) == 0.0
    return difference(own, back) == 0.0


def _odd_tensor(state: dict[str, Any]) -> str:
    """Name and form of the first tensor that is no plain one."""
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout != torch.strided:
            return f"'{name}' is {str(tensor.layout).removeprefix('torch.')}"
        if tensor.dtype is torch.complex128 or tensor.is_quantized:
            return f"'{name}' is {str(tensor.dtype).removeprefix('torch.')}"
    return ""
