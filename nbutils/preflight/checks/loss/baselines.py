"""Part of R5: perfect outputs must score better than a constant answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nbutils.errors import ContractError
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Claims
from nbutils.preflight.free_outputs import FreeOutputs, Values
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_baselines", "judge_declared"]

TINY_GAIN = 1e-3
MIN_ROWS = 4
FORMS = (
    "a number: the loss that is reached; or a function (batch) that gives outputs, for "
    "which the loss is computed"
)


def judge_declared(probe: Probe, batch: Any, claims: Claims) -> None:
    """Compare what the task says a perfect and a trivial predictor reach."""
    given = probe.task.baselines
    named = dict(given) if isinstance(given, Mapping) else {"baseline": given}
    named = {name: value for name, value in named.items() if value is not None}
    lines = {
        name: _reached(probe, value, batch, name, claims)
        for name, value in named.items()
    }
    lines = {name: value for name, value in lines.items() if value is not None}
    claims.show((f"baseline '{n}'", f"loss {value:.5g}") for n, value in lines.items())
    if probe.task.oracle is None:
        return
    oracle = _reached(probe, probe.task.oracle, batch, "oracle", claims)
    if oracle is None:
        return
    claims.show([("oracle", f"loss {oracle:.5g}")])
    beaten = {n: v for n, v in lines.items() if oracle > v + 1e-6 * max(1.0, abs(v))}
    if beaten:
        told = ", ".join(f"'{name}' {value:.5g}" for name, value in beaten.items())
        claims.add(
            "warn",
            "a perfect prediction scores worse than a trivial one",
            expected="the oracle's loss below that of each baseline",
            actual=f"oracle {oracle:.5g}; {told}",
            fix="Look at units, scales and normalisation on both sides of the loss: "
            "outputs and targets may not be compared as they are.",
        )


def _reached(
    probe: Probe, given: Any, batch: Any, name: str, claims: Claims
) -> float | None:
    """The loss of a predictor that is given as a number or as a function."""
    value, error = attempt(lambda: _loss_of(probe, given, batch, name))
    if error is None:
        return value
    claims.add(
        "warn",
        f"'{name}' cannot be evaluated",
        expected=FORMS,
        actual=quote(error),
        fix="Correct oracle= or baselines= of the task.",
    )
    return None


def _loss_of(probe: Probe, given: Any, batch: Any, name: str) -> float:
    if callable(given):
        given = given(batch)
        if not _is_number(given):
            return float(probe.total(probe.terms(given, batch)).detach())
    if not _is_number(given) or not math.isfinite(float(given)):
        raise ContractError(f"'{name}' is {given!r:.80}; it must be {FORMS}.")
    return float(given)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def judge_baselines(
    free: FreeOutputs, scattered: Values, lowest: float, claims: Claims
) -> None:
    """The best outputs that can be found against the best constant answer.

    Args:
        free: The loss as a function of the outputs; it looks at rows of the batch.
        scattered: Outputs of which no two rows are alike.
        lowest: The lowest loss that was found from there.
        claims: Takes the outcome.
    """
    if free.num_rows < MIN_ROWS:
        return
    found, error = attempt(lambda: _levels(free, scattered, lowest))
    if error is not None or found is None:
        return
    start, constant, lowest, other = found
    claims.show(
        [
            ("loss of the untrained model", f"{start:.5g}"),
            ("loss of the best constant answer", f"{constant:.5g}"),
            ("loss of the best outputs found", f"{lowest:.5g}"),
        ]
    )
    gain = constant - lowest
    if claims.worst in ("warn", "fail"):
        return  # the reason was told
    if gain > TINY_GAIN * min(abs(constant), abs(other - constant)):
        return
    claims.add(
        "warn",
        "the best outputs score no better than a constant answer",
        expected="a loss that falls when each output fits its own sample",
        actual=f"the best constant answer reaches {constant:.5g}, free outputs for "
        f"each sample {lowest:.5g}",
        fix="Compare the shapes and scales of outputs and targets inside the loss: "
        "every output may be compared with every target.",
    )


def _levels(
    free: FreeOutputs, scattered: Values, lowest: float
) -> tuple[float, float, float, float] | None:
    """Losses at the start, of the best constant, the best of all, and of noise."""
    if not any(value.ndim and value.shape[0] == free.num_rows for value in free.start):
        return None
    start, other = free.value(free.start), free.value(scattered)
    shared, constant = free.descend(free.start, shared=True)
    lowest = min(lowest, start, free.descend(shared)[1])
    found = (start, constant, lowest, other)
    return found if all(map(math.isfinite, found)) and other != constant else None
