"""Finds the first module that gave a non-finite value, by one replay of a window."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.data.batch import tensors, to_device
from nbutils.data.task import Task
from nbutils.train.buffers import LiveBuffers
from nbutils.train.precision import Precision
from nbutils.train.step import forward_loss

__all__ = ["Culprit"]

MAX_REPLAYS = 3


class Culprit:
    """Replays a refused window under hooks and says where its first bad value arose.

    Weights, gradients, buffers and random generators are given back as they were. At
    most three windows of a run are replayed.

    Args:
        task: What is trained.
        precision: How the window was computed.
        device: Where.
        loss_weights: Weight of each term, as in training; may change in place.
    """

    def __init__(
        self,
        task: Task,
        precision: Precision,
        device: torch.device,
        loss_weights: Mapping[str, float],
    ) -> None:
        self._task = task
        self._precision = precision
        self._device = device
        self._weights = loss_weights
        self._num_replays = 0

    def find(self, window: Sequence[Any]) -> str | None:
        """One sentence without its full stop; none once three windows were replayed.

        Args:
            window: Its batches, or the parts they were computed in, host side.
        """
        if self._num_replays >= MAX_REPLAYS:
            return None
        self._num_replays += 1
        if _is_compiled(self._task.model):
            return "the model is compiled, so its modules cannot be looked into"
        try:
            with _untouched(self._modules(), self._device):
                return self._replay(window)
        except Exception as error:  # told in the event; the run must not end by it
            first = (str(error).splitlines() or [""])[0]
            return f"the replay failed: {type(error).__name__}: {first}"

    def _modules(self) -> list[nn.Module]:
        loss = self._task.loss
        return [self._task.model, *([loss] if isinstance(loss, nn.Module) else [])]

    def _replay(self, window: Sequence[Any]) -> str:
        for number, host_batch in enumerate(window):
            if not self._task.num_targets(host_batch):
                continue
            where = f" (batch {number + 1} of {len(window)})" if len(window) > 1 else ""
            found = self._replay_batch(to_device(host_batch, self._device))
            if found is not None:
                return found + where
        noun = "batches were" if len(window) > 1 else "batch was"
        return (
            f"the window's {noun} finite this time; the value came from random numbers,"
            " from weights that have moved on since, or from a sum that overflowed"
        )

    def _replay_batch(self, batch: Any) -> str | None:
        given = [_count(path, t) for path, t in tensors(batch) if _is_bad(t)]
        trace = _Trace()
        with trace.watching(self._modules()), torch.enable_grad():
            _, terms, loss = forward_loss(
                self._task, self._task.model, batch, self._precision, self._weights
            )
            trace.is_forward = False
            found = trace.first_output(_bad_term(terms, loss))
            if found is None:
                found = self._backward(loss, trace)
        if found is None:
            return None
        return f"the batch itself holds {', '.join(given)}; {found}" if given else found

    def _backward(self, loss: Tensor, trace: _Trace) -> str | None:
        self._precision.backward(loss)
        found = trace.first_gradient()
        named = [
            (f"{prefix}{name}", parameter.grad)
            for prefix, module in zip(("", "loss."), self._modules(), strict=False)
            for name, parameter in module.named_parameters()
        ]
        bad = [
            f"{name} ({_share(grad)} values)"
            for name, grad in named
            if grad is not None and _is_bad(grad)
        ]
        for module in self._modules():
            for parameter in module.parameters():
                parameter.grad = None
        if not bad and not found:
            return None
        scale = self._precision.scale
        scaled = f" (scaled by {scale.value.item():g})" if scale else ""
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        reached = [f"the gradient of {', '.join(bad[:3])}{more} is not finite"]
        told = [found] * bool(found) + reached * bool(bad)
        return f"the loss is finite{scaled}; {'; '.join(map(str, told))}"


@dataclass
class _Trace:
    """What the hooks saw, in order."""

    is_forward: bool = True
    _hard: str | None = None
    _soft: str | None = None
    _outputs: dict[int, Tensor] = field(default_factory=dict)
    _gradients: list[tuple[str, bool, str]] = field(default_factory=list)

    @contextmanager
    def watching(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Hooks on every module, removed on the way out."""
        named = [
            (f"{prefix}{name}".rstrip(".") or f"{type(module).__name__} (all)", module)
            for prefix, top in zip(("", "loss."), modules, strict=False)
            for name, module in top.named_modules()
        ]
        handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in named
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            outputs = _tensors_in(output)
            if self.is_forward and self._hard is None:
                self._judge(name, module, _tensors_in((args, kwargs)), outputs)
            for tensor in outputs:  # a container's output is that of its last module
                if tensor.requires_grad and id(tensor) not in self._outputs:
                    self._outputs[id(tensor)] = tensor
                    tensor.register_hook(self._gradient_hook(name))

        return look

    def _judge(
        self,
        name: str,
        module: nn.Module,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        bad = next((t for t in outputs if _is_bad(t)), None)
        if bad is None:
            return
        told = f"module {name}: output has {_share(bad)} values non-finite"
        told += f"; {_about_input(module, inputs)}"
        own = [
            f"{key} ({_share(tensor)})"
            for key, tensor in _own_tensors(module)
            if _is_bad(tensor)
        ]
        if own:
            told += f"; it holds non-finite {', '.join(own[:3])}"
        if bad.is_complex() or bool((bad.isnan() | bad.isposinf()).any()):
            soft = f"; before it, {self._soft}" if self._soft else ""
            self._hard = told + soft
        elif self._soft is None:  # a mask of -inf is no fault by itself
            self._soft = told

    def _gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            is_bad = _is_bad(gradient)
            self._gradients.append((name, is_bad, _share(gradient) if is_bad else ""))

        return look

    def first_output(self, bad_term: str | None) -> str | None:
        """The first module whose output was bad, in calling order, or the loss term.

        An output of -inf is accused only if a loss term is bad as well.
        """
        if self._hard or bad_term is None:
            return self._hard
        return f"{self._soft or 'every output of a module is finite'}; {bad_term}"

    def first_gradient(self) -> str | None:
        """Where the backward pass first gave something non-finite."""
        before = "the loss"
        for name, is_bad, share in self._gradients:
            if is_bad:
                return (
                    f"the gradient at the output of module {name} has {share} values "
                    f"non-finite; the one behind it, of {before}, was finite"
                )
            before = f"module {name}"
        return None


@contextmanager
def _untouched(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Gradients, buffers and random generators as they were, on every way out."""
    parameters = [p for module in modules for p in module.parameters()]
    gradients = [p.grad for p in parameters]
    python, legacy = random.getstate(), np.random.get_state()
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    buffers = LiveBuffers(*modules, large_bytes=math.inf)
    buffers.keep()
    devices = [device] if device.type == "cuda" else []
    try:
        for parameter in parameters:
            parameter.grad = None
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        buffers.restore()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if mps is not None:
            torch.mps.set_rng_state(mps)
        random.setstate(python)
        np.random.set_state(legacy)


def _bad_term(terms: Mapping[str, Tensor], loss: Tensor) -> str | None:
    bad = [f"{name} is {t.item():g}" for name, t in terms.items() if _is_bad(t)]
    if bad:
        return f"loss term {', '.join(bad)}"
    return (
        "the weighted sum of finite loss terms is not finite" if _is_bad(loss) else None
    )


def _about_input(module: nn.Module, inputs: Sequence[Tensor]) -> str:
    if not inputs:
        return "it had no tensor as input"
    bad = next((tensor for tensor in inputs if _is_bad(tensor)), None)
    if bad is None:
        inner = any(True for _ in module.children())
        return "its input was finite" + (", its own modules' outputs too" * inner)
    return f"its input had {_share(bad)} values non-finite, from no module before it"


def _tensors_in(value: Any) -> list[Tensor]:
    """Tensors of dicts, tuples, lists and objects with public fields, one level."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in _tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in _tensors_in(item)]
    fields = getattr(value, "__dict__", None) or {}
    return [item for item in fields.values() if isinstance(item, Tensor)]


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _is_bad(tensor: Tensor) -> bool:
    values = _values(tensor)
    return values is not None and not bool(torch.isfinite(values).all())


def _share(tensor: Tensor) -> str:
    values = _values(tensor)
    total = 0 if values is None else values.numel()
    bad = 0 if values is None else int((~torch.isfinite(values)).sum())
    return f"{bad:,} of {total:,}"


def _count(path: str, tensor: Tensor) -> str:
    kind = "NaN" if bool(torch.isnan(_values(tensor)).any()) else "infinity"  # type: ignore[arg-type]
    return f"{kind} at {path} ({_share(tensor)} values)"


def _values(tensor: Tensor) -> Tensor | None:
    """What can be looked at: floating or complex numbers that lie in memory."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return None
    tensor = tensor.detach()
    return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor


def _is_compiled(model: nn.Module) -> bool:
    return any(
        getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
        for module in model.modules()
    )
