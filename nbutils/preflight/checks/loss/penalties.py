"""Part of R5: a penalty on the weights does not outweigh what is learned from data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.free_outputs import FreeOutputs
from nbutils.preflight.probe import attempt

__all__ = ["judge_penalties"]

VALUE = 10.0
GRADIENT = 10.0


def judge_penalties(
    terms: dict[str, Tensor],
    weights: dict[str, float],
    parameters: Sequence[Tensor],
    free: FreeOutputs,
    claims: Claims,
) -> None:
    """Terms that stay the same whatever the outputs are: only weights enter them.

    Args:
        terms: The loss's terms, with their graph.
        weights: Weight of each, 1 where absent.
        parameters: What is trained.
        free: The loss as a function of the outputs.
        claims: Takes the outcome.
    """
    others, error = attempt(lambda: free.terms(free.scattered(1)))
    if error is not None:
        return
    own = [n for n in terms if n in others and torch.equal(others[n], terms[n])]
    own = [n for n in own if terms[n].requires_grad]
    rest = [n for n in terms if n not in own]
    if not own or not rest:
        return

    def weighted(names: list[str]) -> Tensor:
        return torch.stack([weights.get(n, 1.0) * terms[n] for n in names]).sum()

    penalty, data = weighted(own), weighted(rest)
    sizes = [_norm(penalty, parameters), _norm(data, parameters)]
    is_large = abs(float(penalty)) > VALUE * abs(float(data))
    if not is_large or sizes[0] < GRADIENT * sizes[1]:
        return
    names = ", ".join(f"'{name}'" for name in own)
    claims.add(
        "warn",
        f"the penalty {names} outweighs the data: its weight is too large",
        expected="a penalty well below the loss of the data",
        actual=f"weighted {float(penalty):.4g}, against {float(data):.4g} of the other "
        f"terms; gradient norm {sizes[0]:.3g} against {sizes[1]:.3g}",
        fix="Lower its weight in loss_weights, or take a mean over the weights in "
        "place of a sum.",
    )


def _norm(loss: Tensor, parameters: Sequence[Tensor]) -> float:
    grads = torch.autograd.grad(
        loss, list(parameters), retain_graph=True, allow_unused=True
    )
    squares = [grad.square().sum() for grad in grads if grad is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
