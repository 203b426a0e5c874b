"""A snapshot: everything a resume needs, copied off the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nbutils.checkpoint.hostcopy import HostBuffers
from nbutils.checkpoint.plain import from_plain, to_host, to_plain
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


def collect(
    step: int,
    model: nn.Module,
    parts: Mapping[str, Any],
    buffers: HostBuffers | None = None,
) -> Snapshot:
    """Copy the model, and the ``state_dict`` of each part.

    Args:
        buffers: Memory for the copies, which the snapshot then borrows; none: each
            tensor gets memory of its own.

    Raises:
        CheckpointError: The model is lazy: its parameters have no values yet.
    """
    weights: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    extra: dict[str, Any] = {}
    seen: dict[Any, str] = {}
    copy_tensor = to_host if buffers is None else buffers.start().copy
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            extra[name] = to_plain(value)
            continue
        if is_lazy(value):
            raise CheckpointError(
                f"'{name}' of the model has no values yet: it is lazy, and its first "
                "forward pass creates it. Pass one batch through the model first: "
                "task.forward(task.model, batch)."
            )
        layout = (value.shape, value.stride(), value.dtype)
        key = (value.data_ptr(), *layout) if value.numel() else name
        if key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        weights[name] = copy_tensor(value)
    saved = {
        name: to_plain(part.state_dict(), copy_tensor) for name, part in parts.items()
    }
    if buffers is not None:
        buffers.settle()
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
    given = {**weights, **from_plain(dict(extra))}
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
    _make_writable(model)
    model.load_state_dict(given)


def _make_writable(model: nn.Module) -> None:
    """Give each expanded buffer memory of its own; loading writes into it."""
    own: dict[int, Tensor] = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and _is_expanded(buffer):
                copied = own.setdefault(id(buffer), buffer.clone())
                module._buffers[name] = copied


def _is_expanded(tensor: Tensor) -> bool:
    """Whether several elements lie at one place, as after ``expand``."""
    if is_lazy(tensor) or tensor.layout != torch.strided:
        return False
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in steps)


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
            part.load_state_dict(from_plain(state["parts"][name]))
    restore_rng(state["rng"])


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in _tensors(item)]
    return []
