"""An optimizer's step by its own fused kernel, without the wrapper around it.

``torch.optim.AdamW.step`` spends two thirds of its time on a small model in Python:
grouping tensors, checking hooks, labelling for the profiler. Between two steps of a
plain run nothing of that changes. The kernel and its arguments are the same, hence so
are the bits. Whatever is not plain goes through ``optimizer.step()``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks  # pyright: ignore

__all__ = ["QuickStep"]

ODD = ("amsgrad", "capturable", "differentiable")


class QuickStep:
    """Steps a fused AdamW, Adam or SGD on the CPU; any other optimizer as it is.

    The first step is always the optimizer's own: it makes the state. So is each one
    after the state was loaded, a hook was added, or another set of parameters got
    gradients.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._is_candidate = type(optimizer) in (AdamW, Adam, SGD)
        self._groups: Any = None
        self._state: Any = None
        self._rows: list[_Row] = []

    def __call__(self, grads: list[Tensor]) -> None:
        """Update the weights; ``grads`` are all gradients, in the optimizer's order."""
        if not self._is_candidate:
            self._optimizer.step()
        elif self._is_current(grads):
            with torch.no_grad():
                for row in self._rows:
                    row.step()
        else:
            self._optimizer.step()
            self._learn(grads)

    def _is_current(self, grads: list[Tensor]) -> bool:
        optimizer: Any = self._optimizer
        is_same = (
            bool(self._rows)
            and optimizer.state is self._state
            and optimizer.param_groups is self._groups
            and not _has_hooks(optimizer)
        )
        if not is_same:
            return False
        start = 0
        for row in self._rows:
            if not row.takes(grads, start, optimizer.state):
                return False
            start += len(row.params)
        return start == len(grads)

    def _learn(self, grads: list[Tensor]) -> None:
        """Remember the tensors of each group, if all of it is plain."""
        optimizer: Any = self._optimizer
        self._state, self._groups = optimizer.state, optimizer.param_groups
        self._rows = []
        if _has_hooks(optimizer) or any(g.is_sparse for g in grads):
            return
        rows = [_row_of(optimizer, group) for group in optimizer.param_groups]
        if all(row is not None for row in rows):
            self._rows = [row for row in rows if row is not None and row.params]


class _Row:
    """A parameter group: its tensors, as the kernel takes them."""

    names: tuple[str, ...] = ()

    def __init__(
        self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        self.group = group
        self.params = params
        self.grads: list[Tensor] = []
        self.columns = [[state[name] for state in states] for name in self.names]
        self._states = list(zip(params, states, strict=bool(states)))
        self._kept = [(s, name, s[name]) for s in states for name in self.names]

    def takes(self, grads: list[Tensor], start: int, state: Any) -> bool:
        """Whether ``grads[start:]`` begins with the gradients of these parameters."""
        params = self.params
        self.grads = grads[start : start + len(params)]
        if len(self.grads) < len(params) or self._is_stale(state):
            return False
        is_number = isinstance(self.group["lr"], float)
        pairs = zip(params, self.grads, strict=True)
        return is_number and all(p.grad is grad for p, grad in pairs)

    def _is_stale(self, state: Any) -> bool:
        """Whether someone has replaced a part of the optimizer's state."""
        return any(state.get(p) is not own for p, own in self._states) or any(
            own.get(name) is not kept for own, name, kept in self._kept
        )

    def step(self) -> None:
        """Call the kernel."""
        raise NotImplementedError


class _AdamRow(_Row):
    names = ("exp_avg", "exp_avg_sq", "step")
    kernel: Any = staticmethod(torch._fused_adam_)

    def step(self) -> None:
        group = self.group
        means, squares, steps = self.columns
        beta1, beta2 = group["betas"]
        torch._foreach_add_(steps, 1)
        self.kernel(
            self.params,
            self.grads,
            means,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )


class _AdamWRow(_AdamRow):
    kernel: Any = staticmethod(torch._fused_adamw_)


class _SgdRow(_Row):
    def _is_stale(self, state: Any) -> bool:
        return self.group["momentum"] != 0  # set since: buffers are to be made

    def step(self) -> None:
        _sgd(self, [])


class _MomentumRow(_Row):
    names = ("momentum_buffer",)

    def step(self) -> None:
        _sgd(self, self.columns[0])


def _sgd(row: _Row, momenta: list[Tensor]) -> None:
    group = row.group
    torch._fused_sgd_(
        row.params,
        row.grads,
        momenta,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


_ROWS: dict[type, type[_Row]] = {AdamW: _AdamWRow, Adam: _AdamRow, SGD: _SgdRow}


def _row_of(optimizer: Optimizer, group: dict[str, Any]) -> _Row | None:
    """The row of a group; none if it is not plain."""
    params = [p for p in group["params"] if p.grad is not None]
    kinds = {
        (type(t), t.dtype, t.device.type) for p in params for t in (p.data, p.grad)
    }
    is_odd = not group.get("fused") or any(group.get(name) for name in ODD)
    # Adam has this switch since torch 2.7; it makes it an AdamW.
    is_odd = is_odd or (type(optimizer) is Adam and group.get("decoupled_weight_decay"))
    if is_odd or not kinds <= {(Tensor, torch.float32, "cpu")}:
        return None
    kind = _ROWS[type(optimizer)]
    if kind is _SgdRow and group["momentum"]:
        kind = _MomentumRow
    if not kind.names:
        return kind(group, params, [])
    states = [optimizer.state.get(p, {}) for p in params]
    if any(state.get(name) is None for state in states for name in kind.names):
        return None
    return kind(group, params, states)


def _has_hooks(optimizer: Any) -> bool:
    """Whether anyone listens to, or has replaced, ``optimizer.step``."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
        or "step" in vars(optimizer)
    )
