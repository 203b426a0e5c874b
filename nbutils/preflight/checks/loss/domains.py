"""Part of R5: the arguments of torch's losses lie where their formulas hold."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.loss.activations_in_loss import is_probability
from nbutils.preflight.watch import LossCall

__all__ = ["explain_refusal", "judge_domains"]

SLACK = 1e-2
HINTS = {
    "between 0 and 1": "binary_cross_entropy wants probabilities: use "
    "BCEWithLogitsLoss on the last layer's output, or put a sigmoid behind it; "
    "targets must lie in 0 to 1.",
    "negative entry": "gaussian_nll_loss wants a variance: give log_var.exp(), or "
    "softplus of the output.",
    "of distribution": "A distribution was given a parameter outside its range: use "
    "softplus or exp for a scale, logits= for scores that are no probabilities.",
}


def explain_refusal(message: str) -> str:
    """What to do about an error message of a torch loss; empty if it is not known."""
    return next((hint for key, hint in HINTS.items() if key in message), "")


def judge_domains(call: LossCall, claims: Claims) -> None:
    """Judge one call by its kind."""
    judge = JUDGES.get(call.kind)
    if judge is not None and call.targets.numel() and call.outputs.numel():
        judge(call, claims)


def _cross_entropy(call: LossCall, claims: Claims) -> None:
    if call.outputs.ndim > 1 and call.outputs.shape[1] == 1:
        claims.add(
            "warn",
            "cross-entropy over a single class is always 0",
            expected="one output per class, 2 at least",
            actual=f"outputs {tuple(call.outputs.shape)}",
            fix="Use BCEWithLogitsLoss for one output, or give the model 2.",
        )
    if not call.targets.is_floating_point() or call.targets.shape != call.outputs.shape:
        return
    total = call.targets.sum(1 if call.targets.ndim > 1 else 0)
    low, high = float(total.min()), float(total.max())
    if high > 1 + SLACK or float(call.targets.min()) < -SLACK:
        claims.add(
            "warn",
            "soft targets of cross-entropy do not sum to 1",
            expected="probabilities that sum to 1 over the classes",
            actual=f"sums from {low:.4g} to {high:.4g}",
            fix="Divide them by their sum; for several labels at once use "
            "BCEWithLogitsLoss.",
        )


def _negative_log(call: LossCall, claims: Claims) -> None:
    """``nll_loss`` only picks entries: they must be log-probabilities already."""
    if call.reduction == "none" or call.outputs.ndim < 2:
        return  # often a way of picking
    _log_probabilities(call, 1, "nll_loss", claims)


def _divergence(call: LossCall, claims: Claims) -> None:
    axis = call.outputs.ndim - 1
    if axis >= 1:
        _log_probabilities(call, axis, "kl_div", claims)
    if not call.given.get("log_target") and float(call.targets.min()) < -SLACK:
        claims.add(
            "warn",
            "kl_div gets targets that are no probabilities",
            expected="targets of 0 and above",
            actual=f"the smallest target is {float(call.targets.min()):.4g}",
            fix="Give probabilities, or log-probabilities with log_target=True.",
        )
    if call.reduction == "mean":
        text = "divides by all elements; 'batchmean' is the divergence of a sample"
        claims.show([("reduction='mean' of kl_div", text)])


def _ctc(call: LossCall, claims: Claims) -> None:
    if call.outputs.ndim == 3:
        _log_probabilities(call, 2, "ctc_loss", claims)
    blank = call.given.get("blank", 0)
    if call.targets.ndim == 1 and bool((call.targets == blank).any()):
        claims.add(
            "warn",
            "targets of CTC hold the blank",
            expected=f"labels other than the blank, {blank}",
            actual=f"{int((call.targets == blank).sum())} of {call.targets.numel()} "
            "targets are the blank",
            fix="Shift the labels by one, or set blank= to a class that is not used.",
        )


def _log_probabilities(call: LossCall, axis: int, name: str, claims: Claims) -> None:
    """Entries must be 0 at most, with exponentials that sum to 1 over the classes."""
    values, kind = call.outputs, call.origin.kind if call.origin is not None else ""
    expected = f"log-probabilities over axis {axis}, each 0 or below"
    shown = f"inputs from {float(values.min()):.4g} to {float(values.max()):.4g}"
    fix = f"Use log_softmax(outputs, dim={axis}) before {name}" + (
        ", or cross_entropy on the logits." if name == "nll_loss" else "."
    )
    if kind == "softmax" or is_probability(values, axis):
        gets = "probabilities, and wants their logarithm"
    elif float(values.max()) > 1e-4:
        gets = "logits, and wants log-probabilities"
    else:
        wrong = _other_axis(values, axis)
        if wrong is None:
            return
        gets = f"a log_softmax over axis {wrong}, and its classes are on axis {axis}"
        shown = f"exponentials sum to 1 over axis {wrong}, not over axis {axis}"
    claims.add("warn", f"{name} gets {gets}", expected=expected, actual=shown, fix=fix)


def _other_axis(values: Tensor, axis: int) -> int | None:
    """The axis over which probabilities were made, if it is not the right one."""
    shares = values.float().exp()
    if is_probability(shares, axis):
        return None
    axes = (a for a in range(values.ndim) if a != axis)
    return next((a for a in axes if is_probability(shares, a)), None)


def _binary(call: LossCall, claims: Claims) -> None:
    if call.reduction == "none" or call.is_weighted:
        return  # a mask may follow
    low, high = float(call.targets.min()), float(call.targets.max())
    if low < -SLACK or high > 1 + SLACK:
        claims.add(
            "warn",
            "targets of a binary cross-entropy lie outside 0 to 1",
            expected="targets from 0 to 1",
            actual=f"from {low:.4g} to {high:.4g}: the loss has no minimum there",
            fix="Map labels such as -1 and 1 to 0 and 1, scale images into 0 to 1, and "
            "use cross_entropy for more than two classes.",
        )


def _signs(call: LossCall, claims: Claims) -> None:
    values = call.targets.unique()
    if not bool(((values == 0) | (values == 1)).all()) or not bool((values == 0).any()):
        return
    claims.add(
        "warn",
        f"the {call.kind} gets labels 0 and 1 where it wants -1 and 1",
        expected="targets of -1 and 1",
        actual=f"targets {', '.join(f'{float(v):g}' for v in values)}: those of 0 "
        "give no gradient, or the wrong one",
        fix="Give 2 * targets - 1.",
    )


def _poisson(call: LossCall, claims: Claims) -> None:
    kind = call.origin.kind if call.origin is not None else ""
    if call.given.get("log_input", True) and kind in ("exp", "softplus", "relu"):
        claims.add(
            "warn",
            "poisson_nll_loss gets a rate where it wants the logarithm of one",
            expected="the logarithm of the rate, or log_input=False",
            actual=f"outputs come from {kind}, and the loss takes exp of them again",
            fix="Set log_input=False, or leave the activation out.",
        )
    if float(call.targets.min()) < -SLACK:
        claims.add(
            "warn",
            "targets of poisson_nll_loss are negative",
            expected="counts of 0 and above",
            actual=f"the smallest is {float(call.targets.min()):.4g}",
            fix="Give counts as they are, neither centred nor scaled.",
        )


JUDGES: dict[str, Callable[[LossCall, Claims], None]] = {
    "cross-entropy": _cross_entropy,
    "negative log-likelihood": _negative_log,
    "Kullback-Leibler divergence": _divergence,
    "CTC": _ctc,
    "binary cross-entropy": _binary,
    "binary cross-entropy of probabilities": _binary,
    "soft margin loss": _signs,
    "hinge embedding loss": _signs,
    "cosine embedding loss": _signs,
    "margin ranking loss": _signs,
    "Poisson negative log-likelihood": _poisson,
}
