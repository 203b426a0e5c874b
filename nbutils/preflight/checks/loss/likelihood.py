"""Part of R5: the likelihood of the data is made larger, not smaller."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.distributions import Likelihoods
from nbutils.preflight.probe import attempt

__all__ = ["judge_likelihood"]


def judge_likelihood(found: Likelihoods, total: Tensor, claims: Claims) -> None:
    """Judge the sign with which each log-probability enters the loss.

    Weights that differ from value to value are rewards, and may have any sign.

    Args:
        found: Log-probabilities of values that no model made.
        total: The loss, with its graph.
        claims: Takes the outcome.
    """
    for kind, value in found.values:
        grads, error = attempt(
            lambda v=value: torch.autograd.grad(
                total, v, retain_graph=True, allow_unused=True
            )
        )
        if error is not None or grads is None or grads[0] is None:
            continue
        grad = grads[0]
        if not bool((grad == grad.reshape(-1)[0]).all()) or float(grad.max()) <= 0:
            continue
        claims.add(
            "warn",
            "the likelihood of the data is minimised: the sign of log_prob is wrong",
            expected="a loss that falls as log_prob of the data rises",
            actual=f"the gradient of the loss by {kind}.log_prob is "
            f"{float(grad.max()):+.3g} at each value; without a lower bound, it falls "
            "for ever",
            fix="Put a minus before log_prob.",
        )
        return
