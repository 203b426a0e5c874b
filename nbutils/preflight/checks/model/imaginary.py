"""Part of R4: a complex input whose imaginary part does nothing."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from nbutils.data.batch import tensors
from nbutils.preflight.blame import is_own
from nbutils.preflight.check import Claims
from nbutils.preflight.free_outputs import replaced
from nbutils.preflight.probe import Probe

__all__ = ["judge_imaginary"]


@torch.no_grad()
def judge_imaginary(probe: Probe, claims: Claims) -> None:
    """Whether outputs stay to the bit when only imaginary parts change."""
    batch = probe.fresh(probe.data.batch("train"))
    place = _cast(probe, batch)
    if place:
        claims.add(
            "warn",
            "complex values are cast to real ones: their imaginary part is lost",
            expected="both parts handed on, or .real and .imag by name",
            actual=f"a cast in the forward pass discards the imaginary part ({place})",
            fix="Hand on both parts, as torch.view_as_real(x) or "
            "torch.cat([x.real, x.imag], 1); where it is 0 anyway, write x.real.",
        )
        return
    for path, value in list(tensors(batch)):
        if not value.is_complex() or not bool((value.imag != 0).any()):
            continue
        turned = torch.complex(value.real, value.imag.roll(1, 0) * 2 + 1)
        before, after = (
            _outputs(probe, batch),
            _outputs(probe, _with(batch, path, turned)),
        )
        other = _outputs(probe, _with(batch, path, value * 2 + 1))
        if _same(before, after) and not _same(before, other):
            claims.add(
                "warn",
                "the model looks at the real part of its complex input alone",
                expected="outputs that depend on the phase as well",
                actual=f"outputs stay equal to the bit when the imaginary part of "
                f"'{path}' changes",
                fix="Hand on both parts, as torch.view_as_real(x) or "
                "torch.cat([x.real, x.imag], 1); .float() and .to(float) drop one.",
            )


def _cast(probe: Probe, batch: object) -> str:
    """Where a cast drops an imaginary part, as torch itself warns; empty if nowhere."""
    was_always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else once in a process
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            _outputs(probe, batch)
    finally:
        torch.set_warn_always(was_always)
    found = [w for w in told if "discards the imaginary part" in str(w.message)]
    own = [w for w in found if is_own(w.filename)]
    return f"{Path(own[0].filename).name}:{own[0].lineno}" if own else ""


def _with(batch: object, path: str, value: Tensor) -> object:
    return replaced(batch, path, value)


def _outputs(probe: Probe, batch: object) -> list[Tensor]:
    probe.rewind()
    found = probe.forward(probe.fresh(batch), training=False)
    return [tensor.clone() for _, tensor in tensors(found)]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    pairs = zip(a, b, strict=True)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in pairs)
