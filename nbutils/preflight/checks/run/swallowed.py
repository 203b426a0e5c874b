"""Part of R11: an exception inside the loss or the model comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_swallowed"]

INJECTED = "a fault that preflight put here"
MAX_MODULES = 8
NOISE = 1e-3

LOOKING = frozenset(
    ("__get__", "__len__", "size", "dim", "numel", "stride", "is_floating_point")
)
"""What reads the form of a tensor, not its values."""


class _Breaking(TorchFunctionMode):
    """Lets every computation on what the model gave raise."""

    num_raised = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in LOOKING:
            values = [*args, *kwargs.values()]
            if any(_comes_from_model(value) for value in values):
                self.num_raised += 1
                raise RuntimeError(INJECTED)
        return func(*args, **kwargs)


def judge_swallowed(probe: Probe, claims: Claims) -> None:
    """Break the loss, then one module after the other; see whether anybody tells."""
    batch = probe.data.batch("train")
    _judge_loss(probe, batch, claims)
    _judge_modules(probe, batch, claims)


def _judge_loss(probe: Probe, batch: Any, claims: Claims) -> None:
    given = probe.fresh(batch)
    outputs, error = attempt(lambda: probe.forward(given, training=True))
    if error is not None or not any(_comes_from_model(t) for _, t in tensors(outputs)):
        return
    breaking = _Breaking()

    def broken() -> Tensor:
        with breaking, probe.precision.loss_context():
            terms = probe.task.loss_terms(outputs, given)
        return probe.total(terms)

    loss, error = attempt(broken)
    probe.rewind()
    if breaking.num_raised == 0:
        return  # the model computes its loss by itself
    if error is not None:
        claims.add("pass", "an exception in the loss comes out of it")
        return
    claims.add(
        "warn",
        "the loss swallows exceptions: a constant takes the place of a failed loss",
        expected="the exception that was raised inside it",
        actual=f"loss {float(loss.detach()):.4g}, though every computation on the "
        "model's outputs raised RuntimeError",
        fix="Take the try/except out of the loss, or raise again: an error that nobody "
        "sees trains on nothing.",
    )


def _judge_modules(probe: Probe, batch: Any, claims: Claims) -> None:
    """Without gradients; where outputs differ from the whole model's, nobody told."""
    probe.rewind()
    clean, error = attempt(lambda: _outputs(probe, batch))
    if error is not None:
        return
    probe.rewind()
    again, _ = attempt(lambda: _outputs(probe, batch))
    if not _are_close(clean, again):
        return  # its outputs never repeat
    for name, module in _chosen(probe.model):
        if probe.seconds_left < 0:
            return
        probe.rewind()  # which also takes hooks away
        with _raising(module) as raised:
            outputs, error = attempt(lambda: _outputs(probe, batch))
        if error is not None or not raised or _are_close(clean, outputs):
            continue  # told; not called; or a fall-back that computes the same
        claims.add(
            "warn",
            f"an exception in '{name}' is swallowed: the forward pass goes on "
            "without it",
            expected="the exception that was raised inside it",
            actual=f"other outputs and no error, though {type(module).__name__} "
            f"'{name}' raised RuntimeError",
            fix="Take the try/except out of forward, or raise again.",
        )
        return
    claims.add("pass", "an exception in the model comes out of it")


def _outputs(probe: Probe, batch: Any) -> list[Tensor]:
    with torch.no_grad():
        outputs = probe.forward(probe.fresh(batch), training=True)
    return [t.detach() for _, t in tensors(outputs) if t.is_floating_point()]


def _chosen(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules without children that hold weights, evenly spread."""
    leaves = [
        (name, module)
        for name, module in model.named_modules()
        if name
        and not isinstance(module, torch.jit.ScriptModule)  # they take no hooks
        and not any(module.children())
        and any(True for _ in module.parameters())
    ]
    stride = max(1, -(-len(leaves) // MAX_MODULES))
    return leaves[::-1][::stride]  # the last ones first: heads and branches


@contextmanager
def _raising(module: nn.Module) -> Iterator[list[int]]:
    """Every call of the module raises; gives what counts them."""
    raised: list[int] = []

    def refuse(*_: Any) -> None:
        raised.append(1)
        raise RuntimeError(INJECTED)

    handle = module.register_forward_pre_hook(refuse)
    try:
        yield raised
    finally:
        handle.remove()


def _are_close(one: Any, other: Any) -> bool:
    if one is None or other is None or len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            return False
        scale = float(a.abs().max()) if a.numel() else 0.0
        if a.numel() and float((a - b).abs().max()) > NOISE * max(scale, 1e-12):
            return False
    return True


def _comes_from_model(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_comes_from_model(item) for item in value)
    return isinstance(value, Tensor) and value.grad_fn is not None
