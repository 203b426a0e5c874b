"""Precision: autocast and loss scaling; the only place that knows the format."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from nbutils.data.containers import is_container, parts, rebuild
from nbutils.data.graphs import is_graph

__all__ = ["LossScale", "Precision", "choose_precision", "to_fp32"]

Kind = Literal["fp32", "bf16", "fp16"]
GROWTH_INTERVAL = 2000
INITIAL_SCALE = 65536.0
MAX_SCALE = 2.0**126  # one more doubling is still finite


def choose_precision(requested: str, device: torch.device) -> tuple[Kind, str]:
    """The format that will be used, and why it was chosen.

    Args:
        requested: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: Where the forward pass runs.
    """
    is_cuda = device.type == "cuda"
    has_bf16 = not is_cuda or torch.cuda.get_device_capability(device)[0] >= 8
    if requested == "auto":
        if not is_cuda:
            return "fp32", f"auto: fp32 is the safe choice on {device.type}"
        kind: Kind = "bf16" if has_bf16 else "fp16"
        return kind, f"auto: {torch.cuda.get_device_name(device)} runs {kind} natively"
    if requested == "bf16" and not has_bf16:
        name = torch.cuda.get_device_name(device)
        return "fp16", f"bf16 was requested; {name} has no bf16 units, so fp16 is used"
    if requested == "fp16" and device.type == "cpu":
        return "fp16", "requested; most CPUs run fp16 far slower than fp32 or bf16"
    return requested, "requested"  # type: ignore[return-value]


class LossScale:
    """A dynamic loss scale that lives on the device, so adapting it never waits.

    Halves when a step was refused, doubles after 2000 good steps, as in
    Micikevicius et al. 2018, "Mixed Precision Training".
    """

    def __init__(self, device: torch.device) -> None:
        fp32 = torch.float32  # whatever the default is
        self.value = torch.full((), INITIAL_SCALE, dtype=fp32, device=device)
        self._num_good = torch.zeros((), dtype=fp32, device=device)

    def update(self, refused: Tensor) -> None:
        """Adapt to one step; ``refused`` is a 0/1 tensor ``()``."""
        bad = refused > 0
        good = torch.where(bad, torch.zeros_like(self._num_good), self._num_good + 1)
        grown = good >= GROWTH_INTERVAL
        factor = torch.where(bad, 0.5, torch.where(grown, 2.0, 1.0))
        self.value.mul_(factor).clamp_(max=MAX_SCALE)
        self._num_good.copy_(torch.where(grown, torch.zeros_like(good), good))

    def now(self) -> Tensor:
        """A copy of the value, ``()``, that later steps do not change."""
        return self.value.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """Scale and streak of good steps."""
        return {"value": self.value, "num_good": self._num_good}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.value.copy_(state["value"])
        self._num_good.copy_(state["num_good"])


class Precision:
    """Autocast, the fp32 loss island and the loss scale of one run.

    Attributes:
        kind: The format in use.
        reason: Why this one.
        scale: The loss scale, or none where the format needs none.
        is_plain: Whether no context is needed: fp32.
    """

    def __init__(
        self, requested: str, device: torch.device, *, loss_fp32: bool = True
    ) -> None:
        self.kind, self.reason = choose_precision(requested, device)
        self.scale = LossScale(device) if self.kind == "fp16" else None
        self.loss_fp32 = loss_fp32 and self.kind != "fp32"
        self._device_type = device.type
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self._dtype = dtypes.get(self.kind)
        self.is_plain = self._dtype is None

    @classmethod
    def of(cls, config: Any, device: torch.device) -> Precision:
        """The precision that a run's config asks for."""
        section = config.precision
        return cls(section.precision, device, loss_fp32=section.loss_fp32)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass; nothing under fp32."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device_type, self._dtype)

    def loss_context(self) -> AbstractContextManager[Any]:
        """The context of a loss: fp32 if that is wished, else as the forward."""
        if self.loss_fp32:
            return torch.autocast(self._device_type, enabled=False)
        return self.autocast()

    def backward(self, loss: Tensor) -> None:
        """Backpropagate, scaled where the format needs it."""
        (loss if self.scale is None else loss * self.scale.value).backward()

    def state_dict(self) -> dict[str, Any]:
        """The scale's state; empty where there is none."""
        return {} if self.scale is None else self.scale.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scale, if both sides have one."""
        if self.scale is not None and state:
            self.scale.load_state_dict(state)


def to_fp32(outputs: Any) -> Any:
    """Outputs with half-precision tensors widened; other objects as they are.

    Looks into tuples, lists, mappings, dataclasses, namespaces, graphs and
    distributions, at any depth; each keeps its type.
    """
    if isinstance(outputs, Tensor):
        is_half = outputs.dtype in (torch.float16, torch.bfloat16)
        return outputs.float() if is_half else outputs
    if type(outputs) is dict:
        return {key: to_fp32(value) for key, value in outputs.items()}
    if is_graph(outputs):
        return copy.copy(outputs).apply(to_fp32)
    if is_container(outputs):
        return rebuild(outputs, [to_fp32(value) for _, value in parts(outputs)])
    if isinstance(outputs, Distribution):
        twin = copy.copy(outputs)
        vars(twin).update({k: to_fp32(value) for k, value in vars(outputs).items()})
        return twin
    return outputs
