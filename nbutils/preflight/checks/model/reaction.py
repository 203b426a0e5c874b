"""Part of R6: after some steps the outputs answer to the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import batch_size, tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_reaction"]

MIN_SAMPLES = 2


def judge_reaction(probe: Probe, claims: Claims) -> None:
    """Warn where every sample of a batch gets one and the same output, bit for bit.

    A head that starts at 0 does so only before the first step.
    """
    batch = probe.data.batch("train")
    result, error = attempt(lambda: _rows(probe, batch))
    if error is not None:
        return
    inputs, outputs, size = result
    if size < MIN_SAMPLES or not outputs or not inputs:
        return
    differ = [path for path, rows in inputs.items() if not _are_equal(rows)]
    if differ and all(map(_are_equal, outputs.values())):
        claims.add(
            "warn",
            "the outputs are the same for every sample: the model ignores its input",
            expected="outputs that differ where inputs do",
            actual=f"{size} samples that differ in {', '.join(differ[:4])}, and equal "
            f"rows in {', '.join(list(outputs)[:4])}, after the first steps",
            fix="Look for an input that is overwritten or multiplied by 0, a dead "
            "activation, a weight of zeros in two layers, or a mask that hides all.",
        )
        return
    _show_idle(probe, batch, inputs, outputs, claims)


def _rows(probe: Probe, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """What the model was given, and its outputs, of those that have a row a sample."""
    size = batch_size(batch)
    with torch.no_grad(), _given(probe.model) as given:
        outputs = _outputs(probe, batch)
    inputs = {p: t for p, t in tensors(given) if t.ndim and t.shape[0] == size}
    with_rows = {p: t for p, t in outputs.items() if t.ndim and t.shape[0] == size}
    is_complete = len(with_rows) == sum(t.ndim > 0 for t in outputs.values())
    return inputs, with_rows if is_complete else {}, size


def _outputs(probe: Probe, batch: Any) -> dict[str, Tensor]:
    seed_everything(probe.seed)
    outputs = probe.forward(probe.fresh(batch), training=False)
    found = {p.replace("batch", "output"): t for p, t in tensors(outputs)}
    return {p: t for p, t in found.items() if t.is_floating_point() or t.is_complex()}


@contextmanager
def _given(model: nn.Module) -> Iterator[dict[str, Any]]:
    """The arguments of the model's first call; empty if it is not called itself."""
    given: dict[str, Any] = {}

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not given:
            given.update({f"input {i}": arg for i, arg in enumerate(args)})
            given.update(kwargs)

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield given
    finally:
        handle.remove()


def _are_equal(rows: Tensor) -> bool:
    return bool((rows == rows[:1]).all())


def _show_idle(
    probe: Probe,
    batch: Any,
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    claims: Claims,
) -> None:
    """Put inputs that change nothing on the card, where there are several."""
    if len(inputs) < 2:
        return
    idle: list[str] = []
    for path, rows in inputs.items():
        if _are_equal(rows):
            continue

        def call(path: str = path) -> dict[str, Tensor]:
            with torch.no_grad(), _rolled(probe.model, path):
                return _outputs(probe, batch)

        moved, error = attempt(call)
        if error is not None:
            continue
        if all(torch.equal(outputs[p], moved[p]) for p in outputs if p in moved):
            idle.append(path)
    if idle:
        claims.show([("inputs that change no output", ", ".join(idle))])


@contextmanager
def _rolled(model: nn.Module, path: str) -> Iterator[None]:
    """Give the model one of its inputs in another order of the samples."""

    def change(value: Any, here: str) -> Any:
        if isinstance(value, Tensor):
            return value.roll(1, 0) if here == path else value
        if type(value) is dict:
            return {k: change(v, f"{here}.{k}") for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(change(v, f"{here}.{i}") for i, v in enumerate(value))
        return value

    def roll(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        moved = tuple(change(arg, f"input {i}") for i, arg in enumerate(args))
        return moved, {key: change(arg, key) for key, arg in kwargs.items()}

    handle = model.register_forward_pre_hook(roll, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
