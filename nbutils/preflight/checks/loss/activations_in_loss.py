"""Part of R5: what stands right before a loss is what that loss is made for."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.origins import Crossed, Origin, Twice
from nbutils.preflight.watch import LossCall, Recorder

__all__ = ["ELEMENTWISE", "is_probability", "judge_activations", "judge_reach"]

LOGITS = "logits: the last layer's output as it is"
NAMES = {
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "logsigmoid": "logsigmoid",
    "relu": "ReLU",
    "softplus": "softplus",
    "tanh": "tanh",
    "exp": "exp",
}
CLASS_LOSSES = ("cross-entropy", "binary cross-entropy")
ELEMENTWISE = (
    "mean squared error",
    "mean absolute error",
    "smooth absolute error",
    "Huber loss",
)
REACH = {
    "softmax": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "exp": (0.0, math.inf),
    "log_softmax": (-math.inf, 0.0),
    "logsigmoid": (-math.inf, 0.0),
}
MIN_SHARE = 0.02
TOLERANCE = 1e-2


def judge_activations(
    recorder: Recorder, in_loss: Iterable[Twice], claims: Claims
) -> None:
    """Judge the calls of torch losses, and activations on top of activations.

    Args:
        recorder: What was seen while model and loss ran.
        in_loss: What wanted logits within the loss and was given something else.
        claims: Takes the outcome.
    """
    for call in recorder.losses:
        _judge_single(call.origin, claims)
        if call.kind in CLASS_LOSSES:
            _judge_logits(call, claims)
        elif call.kind in ELEMENTWISE:
            judge_reach(call.origin, call.targets, call.kind, claims)
    for twice in in_loss:
        _judge_twice(twice, claims)
    for crossed in recorder.origins.crossed[:1]:
        _tell_crossed(crossed, claims)


def _tell_crossed(crossed: Crossed, claims: Claims) -> None:
    """Probabilities sum to 1 along the axis that the classes lie on."""
    kind, axis = crossed.given.kind, crossed.given.dim
    claims.add(
        "warn",
        f"{kind} over axis {axis}, but the targets pick along axis {crossed.picked}",
        expected=f"{kind} over the axis of the classes, {crossed.picked}",
        actual=f"{_place(crossed.given, kind)} goes over axis {axis}, of length "
        f"{crossed.given.width}: the probabilities of the classes do not sum to 1",
        fix=f"Use {kind}(..., dim={crossed.picked}), or "
        "torch.nn.functional.cross_entropy.",
    )


def _judge_logits(call: LossCall, claims: Claims) -> None:
    """Cross-entropies make probabilities of logits themselves."""
    is_class = call.kind == "cross-entropy"
    own = "softmax" if is_class else "sigmoid"
    kind = call.origin.kind if call.origin is not None else ""
    if not kind and is_class and is_probability(call.outputs, 1):
        kind = "softmax"
    if is_class and kind == "log_softmax":
        below = call.origin.below if call.origin is not None else None
        if below is not None and below.kind == "softmax":
            _judge_twice(Twice("log_softmax", below, ""), claims)
        claims.show([("log_softmax before cross-entropy", "harmless: done twice")])
        return
    if kind not in ("softmax", "sigmoid", "relu", "tanh", "exp", "softplus"):
        return
    name = NAMES[kind]
    gets = "probabilities" if kind in ("softmax", "sigmoid") else f"results of {name}"
    claims.add(
        "warn",
        f"{name} before {_title(call.kind)}: the loss wants logits, it gets {gets}",
        expected=LOGITS,
        actual=f"{_place(call.origin, name)}; inputs of the loss are "
        f"{_range(call.outputs)}{_floor(kind, call)}",
        fix=f"Remove the {name}: {_title(call.kind)} applies {own} itself. Apply it "
        "where predictions are read.",
    )


def _title(kind: str) -> str:
    return "BCE-with-logits" if kind == "binary cross-entropy" else kind


def _floor(kind: str, call: LossCall) -> str:
    """How low cross-entropy can get on bounded inputs."""
    if call.kind != "cross-entropy" or call.outputs.ndim < 2:
        return ""
    width = {"softmax": 1.0, "sigmoid": 1.0, "tanh": 2.0}.get(kind)
    num = call.outputs.shape[1]
    if width is None or num < 2:
        return ""
    floor = math.log(math.exp(width) + num - 1) - width
    return f"; with {num} classes it cannot fall below {floor:.3g}"


def _judge_twice(twice: Twice, claims: Claims) -> None:
    """Softmax of softmax, sigmoid of sigmoid, and their mixtures."""
    given, kind = twice.given.kind, twice.kind
    bounded = given in ("softmax", "sigmoid")
    rectified = given == "relu" and kind in ("log_softmax", "logsigmoid")
    if not (bounded or rectified):
        return
    name, own = NAMES[given], NAMES[kind]
    title = f"{name} before {own} in the loss: it wants logits"
    if given == kind:
        title = f"{name} is applied twice"
    elif (given, kind) == ("softmax", "log_softmax"):
        title = "softmax before log_softmax: softmax is applied twice"
    claims.add(
        "warn",
        title,
        expected=LOGITS,
        actual=f"{_place(twice.given, name)}, and {own} on top of it"
        + (f" in {twice.place}" if twice.place else ""),
        fix=f"Apply it once: leave the {name} out of the model, or {own} out of the "
        "loss.",
    )


def _judge_single(origin: Origin | None, claims: Claims) -> None:
    if origin is None or origin.width != 1:
        return
    value = "1" if origin.kind == "softmax" else "0"
    claims.add(
        "warn",
        f"{origin.kind} over a single output is always {value}",
        expected="a softmax over at least 2 classes",
        actual=f"{_place(origin, origin.kind)} goes over an axis of length 1",
        fix="Use a sigmoid for one output, or give the layer one output per class.",
    )


def judge_reach(
    origin: Origin | None, targets: Tensor, what: str, claims: Claims
) -> None:
    """Whether the last activation can give the targets.

    Args:
        origin: What the outputs came from.
        targets: What they are to equal.
        what: Name of the comparison.
        claims: Takes the outcome.
    """
    reach = REACH.get(origin.kind) if origin is not None else None
    if reach is None or origin is None or targets.is_complex() or not targets.numel():
        return
    values = targets.detach().float()
    values = values[torch.isfinite(values)]
    low, high = reach
    slack = TOLERANCE * (high - low if math.isfinite(high - low) else _spread(values))
    outside = (values < low - slack) | (values > high + slack)
    share = float(outside.float().mean()) if values.numel() else 0.0
    if share < MIN_SHARE:
        return
    name = NAMES[origin.kind]
    claims.add(
        "warn",
        f"{share:.0%} of the targets lie where {name} cannot reach",
        expected=f"targets within {_interval(low, high)}, or another last activation",
        actual=f"{_place(origin, name)} before the {what}; targets reach from "
        f"{float(values.min()):.4g} to {float(values.max()):.4g}",
        fix=f"Remove the {name} at the end, or scale the targets into its range.",
    )


def _interval(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{low:g} and above"
    return f"{high:g} and below" if math.isinf(low) else f"{low:g} to {high:g}"


def _spread(values: Tensor) -> float:
    return float(values.std()) if values.numel() > 1 else float(values.abs().sum())


def is_probability(values: Tensor, axis: int) -> bool:
    """Whether entries are in [0, 1] and sum to 1 over an axis, in every row."""
    if values.ndim <= axis or values.shape[axis] < 2 or values.is_complex():
        return False
    if not values.numel() or float(values.min()) < 0 or float(values.max()) > 1:
        return False
    total = values.float().sum(axis)
    return bool((total - 1).abs().max() < 1e-3) and total.numel() > 1


def _place(origin: Origin | None, name: str) -> str:
    if origin is None:
        return f"values as of a {name}"
    return f"{name} in {origin.place}" if origin.place else f"{name} before the loss"


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"
