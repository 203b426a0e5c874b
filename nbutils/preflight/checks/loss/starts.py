"""Part of R5: the value at the start against that of an untrained model."""

from __future__ import annotations

import math

from torch import Tensor, nn

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.loss.activations_in_loss import ELEMENTWISE
from nbutils.preflight.probe import Probe
from nbutils.preflight.roles import find_roles
from nbutils.preflight.watch import LossCall

__all__ = ["judge_start"]

WARN_FACTOR = 1.5
WARN_EXCESS = 2.0
"""Nats above theory. He or Xavier initialisation of the head costs about 1."""
BY_BIAS = 0.25
LARGE_INPUT = 10.0
LARGE_WEIGHT = 5.0
EXPLODED = 1e5
EXTREME = 100.0
"""Logits of scaled cosines (ArcFace, CLIP) stay below it."""
CLASS_LOSSES = ("cross-entropy", "negative log-likelihood")
BINARY_LOSSES = ("binary cross-entropy", "binary cross-entropy of probabilities")


def judge_start(call: LossCall, probe: Probe, claims: Claims) -> None:
    """Judge a mean over unweighted targets; other values have no theory."""
    model = probe.model
    if call.reduction != "mean" or call.is_weighted or not call.targets.numel():
        return
    if call.kind == "mean squared error":
        _note_baselines(call, claims)
    if call.kind in ELEMENTWISE or call.outputs.ndim == 0:
        return
    if call.kind in BINARY_LOSSES:
        theory, name = math.log(2), "ln 2"
    elif call.kind in CLASS_LOSSES:
        num_classes = call.outputs.shape[1 if call.outputs.ndim > 1 else 0]
        theory, name = math.log(max(num_classes, 2)), f"ln {num_classes}"
    else:
        return
    value = float(call.value)
    noise = 1 + 1 / math.sqrt(call.targets.numel())  # few targets say little
    expected = f"about {theory:.3f} ({name}) without knowledge"
    actual = f"{call.kind} {value:.3f}"
    if value > EXPLODED:
        _note_explosion(call, value, expected, claims)
        return
    if value > max(WARN_FACTOR * noise * theory, theory + WARN_EXCESS):
        reason, cause = _reason(call, model), _cause(probe, call)
        if reason or not cause:
            reason = reason or "outputs are scaled, or trained on something else"
            text = f"{value:.3f}, {value / theory:.1f} times {name}: {reason}"
            claims.show([("the loss starts high", text)])
            return
        claims.add(
            "warn",
            f"the loss starts at {value / theory:.1f} times its theoretical value",
            expected=expected,
            actual=f"{actual}; {cause}",
            fix="Scale the inputs to about unit size and look at the last layer's "
            "initialisation; wrong labels of a trained model show the same.",
        )
        return
    note = " (below: trained before, or the answer is in the input)"
    claims.add(
        "pass",
        "starts where theory says" + (note if value < theory / 2 else ""),
        expected=expected,
        actual=actual,
    )


def _note_explosion(
    call: LossCall, value: float, expected: str, claims: Claims
) -> None:
    largest = float(call.outputs.abs().max())
    claims.add(
        "warn",
        f"the outputs explode: the loss starts at {value:.3g}",
        expected=expected,
        actual=f"{call.kind} {value:.3g} of outputs up to {largest:.3g}",
        fix="Look for values that grow from layer to layer or from step to step: "
        "initialisation, a recurrence without bound, inputs that are not scaled.",
    )


def _reason(call: LossCall, model: nn.Module) -> str:
    """Why a high start is what the author wanted; empty if nothing says so."""
    if _is_tied(model):
        return "the head shares the embedding's weights"
    if _is_bias(call.outputs):
        return "the head prefers some classes whatever the input, as a prior does"
    return ""


def _cause(probe: Probe, call: LossCall) -> str:
    """What makes the outputs large; empty where only a scale of them may be meant."""
    known = {path.replace("sample", "batch") for path in find_roles(probe).inputs}
    for path, tensor in tensors(probe.data.batch("train")):
        if path in known and tensor.is_floating_point() and tensor.numel() > 1:
            size = float(tensor.float().square().nanmean().sqrt())
            if size > LARGE_INPUT:
                return f"input '{path}' is of size {size:.3g}"
    for name, module in probe.model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > 1:
            usual = 1 / math.sqrt(module.in_features)
            size = float(module.weight.detach().float().std())
            if size > LARGE_WEIGHT * usual:
                return f"weights of '{name}' are {size / usual:.3g} times the usual"
    spread = float(call.outputs.float().std())
    return f"what the loss gets spreads by {spread:.3g}" if spread > EXTREME else ""


def _is_tied(model: nn.Module) -> bool:
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    others = (m for m in model.modules() if not isinstance(m, nn.Embedding))
    return any(
        id(parameter) in tables
        for module in others
        for parameter in module.parameters(recurse=False)
    )


def _is_bias(outputs: Tensor) -> bool:
    """Whether the outputs differ far less between samples than from 0."""
    if outputs.shape[0] < 2:
        return False
    values = outputs.float()
    between = float(values.std(0).mean())
    return between < BY_BIAS * float(values.mean(0).square().mean().sqrt())


def _note_baselines(call: LossCall, claims: Claims) -> None:
    targets = call.targets.float()
    zero = float(targets.square().mean())
    mean = float((targets - targets.mean()).square().mean())
    claims.show(
        [("baselines of MSE", f"predict 0: {zero:.4g}; predict the mean: {mean:.4g}")]
    )
