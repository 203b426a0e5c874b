"""Where in a model a step stopped, and pairs of tensors that a loss should not take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import describe, describe_tensor, tensors
from nbutils.preflight.check import Severity
from nbutils.preflight.watch import LOSSES

__all__ = ["Hazard", "Hazards", "Place", "watch_places"]

Hazard = tuple[Severity, str, str, str, str]
"""Severity, title, expected, actual and fix."""
NO_COMPLEX = ("mean squared error", "smooth absolute error", "Huber loss")
ELEMENTWISE = (*NO_COMPLEX, "mean absolute error")


@dataclass(frozen=True, slots=True)
class Place:
    """A running module and what it was given."""

    name: str
    module: nn.Module
    inputs: Any

    @property
    def text(self) -> str:
        """The module's path, itself, and the shapes that it got."""
        label = f"'{self.name}' " if self.name else ""
        return f"in module {label}({self._short}), which got {self.got}"

    @property
    def got(self) -> str:
        """Dtypes and shapes of the inputs."""
        return ", ".join(describe(self.inputs).values()) or "no tensor"

    @property
    def wanted(self) -> str:
        """What such a module takes; empty where its class does not tell."""
        module: Any = self.module
        if isinstance(module, nn.Linear):
            return f"(..., {module.in_features})"
        if isinstance(module, nn.modules.conv._ConvNd):
            dims = ("length", "height, width", "depth, height, width")
            size = dims[len(module.kernel_size) - 1]
            return f"(batch, {module.in_channels}, {size})"
        if isinstance(module, nn.modules.batchnorm._NormBase):
            return f"(batch, {module.num_features}, ...)"
        if isinstance(module, nn.LayerNorm):
            sizes = ", ".join(map(str, module.normalized_shape))
            return f"(..., {sizes})"
        if isinstance(module, nn.RNNBase):
            order = "batch, time" if module.batch_first else "time, batch"
            return f"({order}, {module.input_size})"
        if isinstance(module, nn.MultiheadAttention):
            return f"queries (..., {module.embed_dim})"
        if isinstance(module, nn.Embedding):
            return "int64 indices"
        return ""

    @property
    def fix(self) -> str:
        """Which number of the module would take what it got; may be empty."""
        found = [tensor for _, tensor in tensors(self.inputs)]
        if not found or not found[0].ndim:
            return ""
        x, module = found[0], self.module
        path = f"'{self.name}'" if self.name else type(module).__name__
        weight = getattr(module, "weight", None)
        is_product = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        if is_product and isinstance(weight, Tensor) and x.dtype != weight.dtype:
            wanted = str(weight.dtype).removeprefix("torch.")
            return f"Give {path} {wanted}: convert the data, or its input there."
        if isinstance(module, nn.Linear) and x.shape[-1] != module.in_features:
            return f"Set in_features={x.shape[-1]} in {path}, or change what feeds it."
        is_image = isinstance(module, nn.modules.conv._ConvNd) and x.ndim > 1
        if is_image and x.shape[1] != module.in_channels:
            return (
                f"Set in_channels={x.shape[1]} in {path}, or change what feeds it; the "
                "channels must be axis 1."
            )
        return ""

    @property
    def _short(self) -> str:
        text = repr(self.module)
        is_long = "\n" in text or len(text) > 120
        return type(self.module).__name__ if is_long else text


@contextmanager
def watch_places(model: nn.Module) -> Iterator[list[Place]]:
    """The running modules, outermost first; after an exception they stay."""
    running: list[Place] = []
    handles: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(_enter(running, name)))
        handles.append(module.register_forward_hook(_leave(running)))
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _enter(running: list[Place], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        running.append(Place(name, module, inputs))

    return hook


def _leave(running: list[Place]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        while running and running.pop().module is not module:
            pass  # a module inside raised, and was caught

    return hook


@dataclass
class Hazards(TorchFunctionMode):
    """Notes losses that would run on pairs of another meaning than was meant."""

    notes: list[Hazard] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        kind = LOSSES.get(func)
        if kind in ELEMENTWISE:
            bound = inspect.signature(func).bind(*args, **kwargs).arguments
            self._judge(kind, bound["input"], bound["target"])
        return func(*args, **kwargs)

    def _judge(self, kind: str, outputs: Tensor, targets: Tensor) -> None:
        pair = f"outputs {describe_tensor(outputs)}, targets {describe_tensor(targets)}"
        if kind in NO_COMPLEX and (outputs.is_complex() or targets.is_complex()):
            self.notes.append(
                (
                    "fail",
                    f"{kind} is not made for complex numbers",
                    "real outputs and targets",
                    pair,
                    "Write it with (outputs - targets).abs().square().mean().",
                )
            )
        if outputs.shape == targets.shape:
            return
        both = (outputs.shape, targets.shape)
        product = torch.broadcast_shapes(*both)
        self.notes.append(
            (
                "warn" if product in both else "fail",
                "outputs and targets differ in shape and are broadcast",
                "the same shape for both",
                f"{kind} of {pair}: computed over {tuple(product)}",
                "Use outputs.squeeze(-1), or targets.unsqueeze(-1), before the loss.",
            )
        )
