"""A snapshot: everything a resume needs, copied off the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.checkpoint.rng import collect_rng, restore_rng
from nbutils.errors import CheckpointError

__all__ = ["Snapshot", "collect", "load_weights", "restore"]


@dataclass(frozen=True)
class Snapshot:
    """A run at one step, on the host.

    Attributes:
        step: Windows attempted.
        weights: The model's tensors by name, each storage once.
        aliases: Names of tied tensors, and the name that holds their values.
        state: Parts, random generators, what of the model is no tensor.
    """

    step: int
    weights: dict[str, Tensor]
    aliases: dict[str, str]
    state: dict[str, Any]

    def full_weights(self) -> dict[str, Tensor]:
        """Tensors by every name, tied ones included."""
        tied = {alias: self.weights[name] for alias, name in self.aliases.items()}
        return {**self.weights, **tied}

    def num_bytes(self) -> int:
        """Size of all tensors, in bytes."""
        found = [*self.weights.values(), *_tensors(self.state)]
        return sum(t.numel() * t.element_size() for t in found)


def collect(step: int, model: nn.Module, parts: Mapping[str, Any]) -> Snapshot:
    """Copy the model, and the ``state_dict`` of each part."""
    weights: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    extra: dict[str, Any] = {}
    seen: dict[Any, str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            extra[name] = _copied(value)
            continue
        layout = (value.shape, value.stride(), value.dtype)
        key = (value.data_ptr(), *layout) if value.numel() else name
        if key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        weights[name] = _copied(value).contiguous()
    saved = {name: _copied(part.state_dict()) for name, part in parts.items()}
    state = {"parts": saved, "rng": collect_rng(), "model_extra": extra}
    return Snapshot(step, weights, aliases, state)


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], extra: Mapping[str, Any] = {}
) -> None:
    """Load tensors into ``model``, all or nothing.

    Raises:
        CheckpointError: A name or a shape differs; all differences are listed.
    """
    own = model.state_dict()
    given = {**weights, **extra}
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is not in the model" for name in given if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)} on disk, {tuple(own[name].shape)} here"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if problems:
        shown = "".join(f"\n  - {text}" for text in problems[:10])
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(
            f"the checkpoint belongs to another model; {len(problems)} tensors differ:"
            f"{shown}{more}\nBuild the model it was saved from, or use a new run_dir."
        )
    model.load_state_dict(given)


def restore(
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    model: nn.Module,
    parts: Mapping[str, Any],
) -> None:
    """Bring model, parts and random generators to the snapshot's state."""
    load_weights(model, weights, state["model_extra"])
    for name, part in parts.items():
        if name in state["parts"]:
            part.load_state_dict(state["parts"][name])
    restore_rng(state["rng"])


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in _tensors(item)]
    return []
