"""Unscale, clip, guard, update: one place, in this order.

Two ways to the same end. On a CPU the host may look at the gradient norm for free,
so any optimizer will do. On an accelerator a look costs a wait, so the decision
rides as ``found_inf`` and ``grad_scale`` inside a fused optimizer's own kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from nbutils.errors import ContractError
from nbutils.train.ema import Ema
from nbutils.train.optim import can_decide_on_device
from nbutils.train.precision import Precision
from nbutils.train.quick import QuickStep

__all__ = ["DeviceUpdate", "HostUpdate", "make_update"]

EPSILON = 1e-6  # the same as torch.nn.utils.clip_grad_norm_


class HostUpdate:
    """Decides on the host; one look at the gradient norm per step."""

    def __init__(
        self, optimizer: Optimizer, precision: Precision, guard: Any, ema: Ema | None
    ) -> None:
        self.optimizer = optimizer
        self._precision = precision
        self._clip_norm: float | None = guard.clip_norm
        self._clip_value: float | None = guard.clip_value
        self._ema = ema
        self._flags: tuple[Tensor, Tensor] | None = None
        self._step = QuickStep(optimizer)

    def __call__(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Apply or refuse the update.

        Returns:
            Gradient norm before clipping, and 1 if refused else 0; both ``()``.
        """
        grads = gradients(self.optimizer)
        scale = self._precision.scale
        if scale is not None:
            torch._foreach_mul_(grads, scale.value.reciprocal())
        norm = None if self._clip_value is None else _clamp(grads, self._clip_value)
        norm = total_norm(grads) if norm is None else norm
        norm_value, loss_value = _on_host(norm, loss)
        is_finite = math.isfinite(norm_value) and math.isfinite(loss_value)
        if is_finite:
            if self._clip_norm is not None and norm_value > self._clip_norm - EPSILON:
                coefficient = self._clip_norm / (norm + EPSILON)
                torch._foreach_mul_(grads, coefficient.clamp(max=1.0))
            self._step(grads)
            if self._ema is not None:
                self._ema.update()
        refused = self._flag(not is_finite, norm)
        if scale is not None:
            scale.update(refused)
        drop_gradients(self.optimizer)
        return norm, refused

    def _flag(self, is_refused: bool, like: Tensor) -> Tensor:
        """One of two constants, made once: a new tensor a step would cost more."""
        if self._flags is None:
            applied = torch.zeros((), device=like.device)
            self._flags = applied, torch.ones_like(applied)
        return self._flags[is_refused]


class DeviceUpdate(HostUpdate):
    """Decides on the device, inside a fused optimizer; never waits for it.

    The kernel divides gradients by ``grad_scale`` and leaves all as it is where
    ``found_inf`` is 1. It reads both as one fp32 number in the device's memory.
    """

    def __call__(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        grads = gradients(self.optimizer)
        scale = self._precision.scale
        divisor = None if scale is None else scale.value
        if self._clip_value is not None:  # needs the true gradients, so unscale first
            if divisor is not None:
                torch._foreach_mul_(grads, divisor.reciprocal())
            norm, divisor = _clamp(grads, self._clip_value), None
        else:
            norm = total_norm(grads)
            norm = norm if divisor is None else norm / divisor
        loss = loss.to(norm.device, non_blocking=True)
        refused = (~torch.isfinite(norm + loss)).float()
        if self._clip_norm is not None:
            excess = ((norm + EPSILON) / self._clip_norm).clamp(min=1.0).float()
            divisor = excess if divisor is None else divisor * excess
        optimizer: Any = self.optimizer
        _fill_momentum(optimizer)
        optimizer.grad_scale, optimizer.found_inf = divisor, refused
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf
        if self._ema is not None:
            self._ema.update(refused)
        if scale is not None:
            scale.update(refused)
        drop_gradients(optimizer)
        return norm, refused


def make_update(
    optimizer: Optimizer,
    precision: Precision,
    guard: Any,
    device: torch.device,
    ema: Ema | None = None,
) -> tuple[HostUpdate, str]:
    """The update for this optimizer and device, and why this one."""
    if device.type == "cpu":
        return HostUpdate(optimizer, precision, guard, ema), "a CPU decides for free"
    obstacle = _why_on_host(optimizer, device)
    if obstacle is None:
        return DeviceUpdate(optimizer, precision, guard, ema), "fused: no host sync"
    reason = f"{type(optimizer).__name__} {obstacle}: one host sync per step"
    return HostUpdate(optimizer, precision, guard, ema), reason


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """Every gradient the optimizer would use, to be read and scaled in place.

    Raises:
        ContractError: There is none: the loss reaches no trainable parameter.
    """
    groups = optimizer.param_groups
    grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    if not grads:
        raise ContractError(
            "the loss gave no gradient to any parameter of the optimizer; expected at "
            "least one. Check that the loss uses the model's outputs, undetached."
        )
    if any(grad.is_sparse for grad in grads):
        return [_values(p) for g in groups for p in g["params"] if p.grad is not None]
    return grads


def _values(parameter: Tensor) -> Tensor:
    """A gradient's own memory; of a sparse one, its values, each index once."""
    grad: Any = parameter.grad
    if not grad.is_sparse:
        return grad
    parameter.grad = grad.coalesce()
    return parameter.grad._values()  # type: ignore[union-attr]


def total_norm(grads: list[Tensor]) -> Tensor:
    """Global 2-norm of ``grads``, ``()``; the same bits as ``get_total_norm``.

    Grouping by device and dtype is left out where there is one group, plain tensors
    on a CPU or CUDA: half of the time on small models.
    """
    kinds = {(type(grad), grad.dtype, grad.device) for grad in grads}
    kind, _dtype, device = next(iter(kinds))
    if len(kinds) > 1 or kind is not Tensor or device.type not in ("cpu", "cuda"):
        return get_total_norm(grads)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


def drop_gradients(optimizer: Optimizer) -> None:
    """``optimizer.zero_grad(set_to_none=True)``, without its profiler's label."""
    if getattr(optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        optimizer.zero_grad(set_to_none=True)  # its own way, a wrapper's for instance
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _on_host(norm: Tensor, loss: Tensor) -> tuple[float, float]:
    """Both values, with one wait where there is one at all."""
    if norm.device.type == "cpu":
        return norm.item(), loss.item()
    first, second = torch.stack((norm, loss.to(norm.device))).tolist()
    return first, second


def _clamp(grads: list[Tensor], limit: float) -> Tensor:
    """Clip each element; gives the norm after it, or what was not finite before.

    Clipping makes a large number of an infinite one, so that is asked first.
    """
    largest = torch._foreach_norm([g for g in grads if g.numel()] or grads, math.inf)
    excess = torch.stack([value.float() for value in torch._foreach_mul(largest, 0.0)])
    torch._foreach_clamp_min_(grads, -limit)
    torch._foreach_clamp_max_(grads, limit)
    return total_norm(grads) + excess.sum()  # 0, or NaN where one was infinite


def _fill_momentum(optimizer: Optimizer) -> None:
    """Start the momentum of a fused SGD at 0, which is what its first step means.

    Torch leaves it uninitialised, to be written by that step; when the step is
    refused, nothing writes it, and the next one adds what lay in memory.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if parameter.grad is None:
                continue
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def _why_on_host(optimizer: Optimizer, device: torch.device) -> str | None:
    """What keeps the decision from the device; none if nothing does.

    Torch's kernels for MPS are not trusted with it: Adam's take ``found_inf`` and
    ``grad_scale`` and heed neither (an update with NaN would be applied, and nothing
    clipped), and SGD's refused both until lately.
    """
    if device.type != "cuda":
        return f"cannot refuse an update on {device.type} by itself"
    groups = optimizer.param_groups
    if not can_decide_on_device(optimizer) or not all(g.get("fused") for g in groups):
        return "is not fused"
    # The first step of a dampened SGD differs from one after a momentum of 0.
    return "is dampened" if any(g.get("dampening") for g in groups) else None
