"""Parts of R6: steps that eps swallows, that rounding loses, that hooks cut."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from nbutils.preflight.check import Claims

__all__ = ["judge_damped", "judge_hooks", "judge_rounding"]

SUSPECT = 1e-4
"""Below it, eps is a guard against division by 0 and no more."""
MOMENTS = ("exp_avg_sq", "square_avg", "exp_avg_sqs")
RATIO = 10.0
MOST = 0.9
LOST = 0.5
MANY_ELEMENTS = 100


def judge_damped(optimizer: Optimizer, num_steps: int, claims: Claims) -> None:
    """Compare eps with the root of the second moments after a few steps.

    An update is ``lr * m / (sqrt(v) + eps)`` (Kingma & Ba, 2015): where eps is much
    the larger one, steps shrink by ``eps / sqrt(v)``.
    """
    shares: list[float] = []
    sizes: list[float] = []
    eps = 0.0
    for group in optimizer.param_groups:
        own = group.get("eps")
        if not isinstance(own, float) or own < SUSPECT:
            continue
        betas = group.get("betas")
        beta = betas[1] if isinstance(betas, (tuple, list)) else group.get("alpha")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            moment = next((state[n] for n in MOMENTS if n in state), None)
            if moment is None or not isinstance(beta, float) or not moment.numel():
                continue
            root = (moment.detach() / (1 - beta**num_steps)).sqrt()
            root = root[root > 0]
            if root.numel():
                eps = own
                shares.append(float((root * RATIO < own).double().mean()))
                sizes.append(float(root.median()))
    if not shares or min(shares) < MOST:
        return
    size = float(torch.tensor(sizes).median())
    claims.add(
        "warn",
        f"eps={eps:g} of the optimizer outweighs its moments: steps are too small",
        expected="an eps far below the gradients, such as 1e-8",
        actual=f"the root of the second moments is about {size:.2g}; each step is "
        f"{eps / size:.0f} times smaller than the learning rate says",
        fix="Leave eps at its default; large ones go with RMSprop's own rates.",
    )


def judge_rounding(stuck: dict[str, tuple[int, int]], claims: Claims) -> None:
    """Weights of 16 bits keep 8 or 11 binary digits: small steps change nothing.

    Args:
        stuck: Parameter -> elements that stayed though they had a gradient in the last
            step, and elements that had one. Parameters of 16 bits alone.
        claims: Takes the outcome.
    """
    stays = sum(count for count, _ in stuck.values())
    pushed = sum(count for _, count in stuck.values())
    if not pushed or stays < LOST * pushed:
        return
    claims.add(
        "warn",
        "steps are lost in rounding: the weights are kept in 16 bits",
        expected="weights in fp32; precision='bf16' or 'fp16' for the forward pass",
        actual=f"{stays / pushed:.0%} of the elements with a gradient did not change "
        "in any of a few steps",
        fix="Leave the model in fp32: model.float(); autocast does the rest.",
    )


def judge_hooks(parameters: Iterable[Tensor], claims: Claims) -> None:
    """Gradients that hooks leave with one sign alone."""
    hooked = [p for p in parameters if p._backward_hooks and p.grad is not None]
    grads = [p.grad.reshape(-1) for p in hooked if p.grad is not None]
    grads = [grad[grad != 0] for grad in grads if grad.layout == torch.strided]
    whole = torch.cat(grads) if grads else torch.empty(0)
    if len(grads) < 2 or whole.numel() < MANY_ELEMENTS:
        return
    if not bool((whole > 0).all()) and not bool((whole < 0).all()):
        return
    claims.add(
        "warn",
        "hooks on the parameters leave gradients of one sign alone",
        expected="gradients of both signs",
        actual=f"all {whole.numel():,} elements that are not 0 have one sign",
        fix="Look at the hooks: clamp(min=-c, max=c) needs both bounds; or set "
        "clip_value.",
    )
