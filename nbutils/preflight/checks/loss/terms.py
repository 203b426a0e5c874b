"""Part of R5: each named term reaches a parameter, and its weight moves the total."""

from __future__ import annotations

import torch
from torch import Tensor

from nbutils.preflight.check import Claims
from nbutils.preflight.checks.loss.penalties import judge_penalties
from nbutils.preflight.free_outputs import FreeOutputs
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_terms"]

DWARFED = 1e4


def judge_terms(
    probe: Probe, terms: dict[str, Tensor], free: FreeOutputs, claims: Claims
) -> None:
    """Judge terms and weights; a loss of one term has neither."""
    if len(terms) == 1:
        return
    weights = {**probe.task.loss_weights, **probe.config.loss.loss_weights}
    parameters = [p for p in _trainable(probe) if p.requires_grad]
    for name, term in terms.items():
        if weights.get(name, 1.0) == 0:
            continue
        if "terms may rest" in probe.task.declares:
            claims.add("pass", f"term '{name}' may rest, as declared")
        elif term.requires_grad and _reaches(term, parameters):
            claims.add("pass", f"term '{name}' is alive")
        elif term.requires_grad and _wakes(free, name):
            claims.show(
                [(f"term '{name}'", "rests at the start; other outputs wake it")]
            )
        else:
            _note_dead(name, term, claims)
    judge_penalties(terms, weights, parameters, free, claims)
    _judge_knobs(probe, terms, weights, claims)
    _show_weights(terms, weights, claims)


def _trainable(probe: Probe) -> list[torch.nn.Parameter]:
    loss = probe.task.loss
    extra = loss.parameters() if isinstance(loss, torch.nn.Module) else ()
    return [*probe.model.parameters(), *extra]


def _reaches(term: Tensor, parameters: list[torch.nn.Parameter]) -> bool:
    grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return any(grad is not None and bool((grad != 0).any()) for grad in grads)


def _wakes(free: FreeOutputs, name: str) -> bool:
    """Whether the term has a gradient at other outputs than those of the start."""
    if not free.paths:
        return False
    for seed in range(3):
        leaves = [value.requires_grad_() for value in free.scattered(seed)]
        terms, error = attempt(lambda leaves=leaves: free.terms(leaves))
        if error is not None or not terms[name].requires_grad:
            continue
        grads = torch.autograd.grad(terms[name], leaves, allow_unused=True)
        if any(grad is not None and bool((grad != 0).any()) for grad in grads):
            return True
    return False


def _note_dead(name: str, term: Tensor, claims: Claims) -> None:
    """A term cut off from the parameters is a fault; one at rest may wake up."""
    is_cut = not term.requires_grad
    state = "is cut off from the model" if is_cut else "is at rest"
    grads = "no gradient" if is_cut else "only zero gradients"
    claims.add(
        "fail" if is_cut else "warn",
        f"term '{name}' {state}",
        expected="a value other than 0 and a gradient to a parameter",
        actual=f"{name} = {float(term.detach()):.4g} with {grads}",
        fix=f"Compute '{name}' from the outputs without .detach(), set its weight "
        'to 0, or declare "terms may rest".',
    )


def _judge_knobs(
    probe: Probe, terms: dict[str, Tensor], weights: dict[str, float], claims: Claims
) -> None:
    base = float(probe.total(terms).detach())
    for name, term in terms.items():
        weight = weights.get(name, 1.0)
        moved = {**probe.config.loss.loss_weights, name: weight + 1.0}
        change = float(probe.task.total(terms, moved).detach()) - base
        value = float(term.detach())
        if abs(change - value) > 1e-3 * max(abs(base), abs(value), 1e-6):
            claims.add(
                "fail",
                f"the weight of '{name}' does not move the total",
                expected=f"+{value:.4g} for a weight of {weight + 1:g}",
                actual=f"{change:+.4g}",
                fix="Let the loss return bare terms; weights are applied to them.",
            )


def _show_weights(
    terms: dict[str, Tensor], weights: dict[str, float], claims: Claims
) -> None:
    """What is unusual about the weights, for the reader to judge."""
    sizes = {n: abs(weights.get(n, 1.0) * float(t.detach())) for n, t in terms.items()}
    for name, size in sizes.items():
        weight = weights.get(name, 1.0)
        others = sum(sizes.values()) - size
        if weight < 0:
            claims.show([(f"weight of '{name}'", f"{weight:g}: it is maximised")])
        if others > 0 and size > DWARFED * others:
            text = f"{size:.3g}, all others together {others:.3g}"
            claims.show([(f"'{name}' drowns the other terms", text)])
