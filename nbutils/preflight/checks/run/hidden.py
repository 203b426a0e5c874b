"""Part of R11: a NaN among the inputs reaches the loss, where the guard sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.probe import Probe, attempt

__all__ = ["is_numeric", "judge_hidden", "poison"]

DECLARATION = "missing values"

REPLACING = frozenset(
    ("nan_to_num", "nan_to_num_", "isnan", "isfinite", "isinf", "nansum", "nanmean")
)
"""What looks for NaN on purpose; comparisons in a model drop one by accident."""

DECIDING = frozenset(("__bool__", "item", "__float__", "tolist", "numpy", "__array__"))
"""What brings a number into Python, where an ``if`` may follow."""

COMPARING = frozenset(("ne", "__ne__", "eq", "__eq__"))
CHANGED = 1e-3


class _Witness(TorchFunctionMode):
    """Notes which functions have looked at a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in REPLACING or name in DECIDING:
            if any(_has_nan(value) for value in args):
                self.seen.add(name)
        elif name in COMPARING and len(args) > 1 and args[0] is args[1]:
            self.seen.update(["x != x"] if _has_nan(args[0]) else [])
        return func(*args, **(kwargs or {}))


@dataclass
class _Traces:
    """What a poisoned batch gave, and who looked at it on the way."""

    outputs: Any
    loss: Tensor
    in_model: set[str] = field(default_factory=set)
    in_loss: set[str] = field(default_factory=set)


def judge_hidden(probe: Probe, claims: Claims) -> None:
    """Forward on NaN inputs, the loss on whole targets: it must not be finite."""
    if DECLARATION in probe.task.declares:
        claims.add("skip", "NaN inputs: missing values, as declared")
        return
    batch = probe.data.batch("train")
    if not is_numeric(batch) or any(_has_nan(t) for _, t in tensors(batch)):
        return
    clean, error = attempt(lambda: _trace(probe, batch, is_poisoned=False))
    if error is not None:
        return  # R4 and R5 tell what is wrong
    bad, error = attempt(lambda: _trace(probe, batch, is_poisoned=True))
    if error is not None:
        claims.add("pass", "a NaN input raises", actual=type(error).__name__)
        return
    if not bool(torch.isfinite(bad.loss)):
        claims.add("pass", "a NaN input makes the loss non-finite, and is refused")
        return
    outputs_are_bad = any(_has_nan(t) for _, t in tensors(bad.outputs))
    if outputs_are_bad and bad.in_loss:
        _note_loss(bad, claims)
    elif not outputs_are_bad and bad.in_model & REPLACING and _differ(clean, bad):
        _note_model(bad, claims)
    else:
        claims.show([("NaN inputs", "do not reach the loss: unused, or compared only")])


def _trace(probe: Probe, batch: Any, *, is_poisoned: bool) -> _Traces:
    probe.rewind()
    given, whole = probe.fresh(batch), probe.fresh(batch)
    if is_poisoned:
        poison(given)
    with _watching(is_poisoned) as in_model, torch.no_grad():
        outputs = probe.forward(given, training=True)
    with _watching(is_poisoned) as in_loss, torch.no_grad():
        loss = probe.total(probe.terms(outputs, whole))
    return _Traces(outputs, loss.detach(), in_model, in_loss)


@contextlib.contextmanager
def _watching(is_on: bool) -> Iterator[set[str]]:
    witness = _Witness()
    with witness if is_on else contextlib.nullcontext():
        yield witness.seen


def is_numeric(batch: Any) -> bool:
    """Whether any tensor of a batch can hold a NaN."""
    return any(t.is_floating_point() or t.is_complex() for _, t in tensors(batch))


def poison(batch: Any) -> None:
    """Write NaN into every floating or complex tensor of a batch, in place."""
    for _, tensor in tensors(batch):
        if tensor.is_floating_point() or tensor.is_complex():
            tensor.fill_(float("nan"))


def _has_nan(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.is_meta:
        return False
    if not (value.is_floating_point() or value.is_complex()):
        return False
    with torch._C.DisableTorchFunction():
        values = value.detach()
        if values.layout is not torch.strided:
            return False
        return bool(torch.isnan(values).any())


def _differ(clean: _Traces, bad: _Traces) -> bool:
    """Whether the inputs matter at all: the loss moved when they went."""
    gap = abs(float(bad.loss) - float(clean.loss))
    return gap > CHANGED * max(abs(float(clean.loss)), 1e-6)


def _note_loss(bad: _Traces, claims: Claims) -> None:
    claims.add(
        "warn",
        "the loss is finite though the outputs are NaN: the loss hides it",
        expected="a loss that is NaN, so that the update is refused and named",
        actual=f"loss {float(bad.loss):.4g} for outputs that are NaN; "
        f"called on them: {', '.join(sorted(bad.in_loss))}",
        fix="Take the replacement out of the loss: a constant in place of a failed "
        "loss trains on nothing in silence. The run refuses such an update by itself. "
        f'If missing values are meant, declare "{DECLARATION}".',
    )


def _note_model(bad: _Traces, claims: Claims) -> None:
    told = ", ".join(sorted(bad.in_model & REPLACING))
    claims.add(
        "warn",
        "the loss is finite though the inputs are NaN: the model hides it",
        expected="a loss that is NaN, so that the update is refused and named",
        actual=f"loss {float(bad.loss):.4g} for inputs that are all NaN; called on "
        f"NaN in forward: {told}",
        fix="Clean the data before it reaches the model, and let forward pass a NaN "
        "on: it tells that something broke. If missing values are meant, declare "
        f'"{DECLARATION}".',
    )
