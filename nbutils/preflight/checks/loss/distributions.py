"""S6: what a head gives is told apart by name, and fits the distribution it is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from nbutils.preflight.check import Check, Claims
from nbutils.preflight.distributions import Drawn
from nbutils.preflight.probe import Probe

__all__ = ["CHECK"]

SLACK = 1e-6
MEANT = {
    "scale": "a scale above 0: softplus or exp of the output",
    "probs": "probabilities: softmax or sigmoid of the output, or logits=",
    "concentration": "values above 0: softplus or exp of the output",
    "rate": "a rate above 0: softplus or exp of the output",
    "df": "values above 0: softplus or exp of the output",
}


def run(probe: Probe, claims: Claims) -> None:
    """Judge the distributions that were made, then the form of the outputs."""
    drawn: list[Drawn] = probe.facts.get("distributions", [])
    _judge_parameters(drawn, claims)
    _judge_logits(drawn, claims)
    kinds = sorted({made.kind for made in drawn})
    if kinds:
        claims.add("pass", f"{', '.join(kinds)}: parameters within their range")
    _show_form(probe.facts.get("outputs"), claims)


def _judge_parameters(drawn: Iterable[Drawn], claims: Claims) -> None:
    """A scale below 0 or weights that are none give densities that mean nothing."""
    for made in drawn:
        for name, low in made.broken.items():
            claims.add(
                "fail",
                f"{made.kind} gets a {name} outside its range",
                expected=MEANT.get(name, f"a {name} that {made.kind} allows"),
                actual=f"{name} holds {low:.4g}, and validate_args=False lets it pass",
                fix="Pass the output through softplus or exp where it must be "
                "positive, through softmax where it must sum to 1.",
            )


def _judge_logits(drawn: Iterable[Drawn], claims: Claims) -> None:
    for made in drawn:
        origin = made.given.get("logits")
        if origin is not None and origin.kind in ("softmax", "sigmoid"):
            claims.add(
                "warn",
                f"{origin.kind} before {made.kind}(logits=...): it wants logits, it "
                "gets probabilities",
                expected=f"{made.kind}(probs=...), or logits as they are",
                actual=f"logits= is given the result of {origin.kind}"
                + (f" in {origin.place}" if origin.place else ""),
                fix="Pass it as probs=, or leave the activation out.",
            )
        if made.negative_probs < -SLACK:
            claims.add(
                "warn",
                f"{made.kind}(probs=...) gets values below 0: logits?",
                expected="probabilities, each 0 or above",
                actual=f"the smallest is {made.negative_probs:.4g}",
                fix="Pass them as logits=, or through softmax.",
            )


def _show_form(outputs: Any, claims: Claims) -> None:
    """Outputs of one shape in a plain tuple are told apart by their place alone."""
    alike = list(_positional(outputs))
    if not alike:
        claims.add("pass", "outputs are told apart by name or by shape")
        return
    text = (
        f"{', '.join(alike)} have one shape and are told apart by their place alone; "
        "a NamedTuple or a dict, as {'mean': ..., 'log_std': ...}, cannot be mixed up"
    )
    claims.show([("outputs by position", text)])
    claims.add("pass", "outputs by position")


def _positional(outputs: Any) -> Iterator[str]:
    if not isinstance(outputs, (tuple, list)) or hasattr(outputs, "_fields"):
        return
    shapes = [tuple(o.shape) if isinstance(o, Tensor) else None for o in outputs]
    for number, shape in enumerate(shapes):
        if shape is not None and shapes.count(shape) > 1:
            yield str(number)


CHECK = Check(
    id="S6",
    title="Distributions get valid parameters, and outputs are told apart",
    why="Means read as scales, or logits as probabilities, train to nonsense without "
    "an error.",
    run=run,
    needs=("R4",),
)
