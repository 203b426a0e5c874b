"""R5: the loss is a finite scalar, starts where theory says, and every term works."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nbutils.preflight.blame import quote
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.watch import LossCall

__all__ = ["CHECK"]

WARN_FACTOR = 1.5
"""Raw inputs or N(0, 1) embeddings start far too high and may train all the same, so
that a high start is no more than a warning."""
ELEMENTWISE = (
    "mean squared error",
    "mean absolute error",
    "smooth absolute error",
    "Huber loss",
)


def run(probe: Probe, claims: Claims) -> None:
    """Judge the loss of the first batch in train mode."""
    moved = probe.fresh(probe.data.batch("train"))
    probe.rewind()
    with probe.recording() as recorder:
        outputs = probe.forward(moved, training=True)
        terms, error = attempt(lambda: probe.terms(outputs, moved))
    if error is not None:
        _note_error(error, outputs, claims)
        return
    claims.show(
        (f"term {name}", f"{float(t.detach()):.5g}") for name, t in terms.items()
    )
    total = probe.total(terms)
    if not _judge_total(terms, total, claims):
        return
    for call in recorder.losses:
        if _judge_shapes(call, claims):
            _judge_start(call, claims)
        _judge_ignored(probe, call, claims)
    _judge_terms(probe, terms, claims)
    _judge_targets(probe, moved, claims)


def _note_error(error: Exception, outputs: Any, claims: Claims) -> None:
    from nbutils.data.batch import describe

    got = ", ".join(f"{p}: {t}" for p, t in describe(outputs).items())
    claims.add(
        "fail",
        "the loss cannot be computed",
        expected="a real scalar tensor, or a dict of them",
        actual=f"{quote(error)}\noutputs were {got}",
        fix="Compare the outputs with what the loss expects.",
    )


def _judge_total(terms: dict[str, Tensor], total: Tensor, claims: Claims) -> bool:
    """Whether the total can be trained on."""
    bad = [name for name, term in terms.items() if not bool(torch.isfinite(term))]
    value = float(total.detach())
    if bad or not math.isfinite(value):
        named = ", ".join(f"{name} = {float(terms[name]):.4g}" for name in bad)
        claims.add(
            "fail",
            "the loss is not finite",
            expected="a finite number",
            actual=named or f"total = {value}",
            fix="Look for log(0), a division by 0 or an overflow in the named term.",
        )
        return False
    if not total.requires_grad:
        claims.add(
            "fail",
            "the loss carries no gradient",
            expected="a loss that depends on the parameters",
            actual=f"loss = {value:.5g} with requires_grad=False",
            fix="Remove .detach(), .item(), no_grad() or argmax between the model and "
            "the loss, and unfreeze what should learn.",
        )
        return False
    claims.add(
        "pass",
        "finite, scalar, with a gradient",
        expected="a finite scalar with a gradient",
        actual=f"loss = {value:.5g}",
    )
    return True


def _judge_shapes(call: LossCall, claims: Claims) -> bool:
    """Whether an elementwise loss compares each output with its own target.

    Outputs ``(B, 1)`` and targets ``(B,)`` are broadcast to ``(B, B)``: every output
    is compared with every target, and the model learns their mean.
    """
    outputs, targets = call.outputs.shape, call.targets.shape
    if call.kind not in ELEMENTWISE or outputs == targets:
        return True
    product = torch.broadcast_shapes(outputs, targets)
    is_outer = product not in (outputs, targets)
    claims.add(
        "fail" if is_outer else "warn",
        "outputs and targets differ in shape and are broadcast",
        expected="the same shape for both",
        actual=f"{call.kind} of outputs {tuple(outputs)} and targets {tuple(targets)}: "
        f"computed over {tuple(product)}",
        fix="Use outputs.squeeze(-1), or targets.unsqueeze(-1), before the loss.",
    )
    return False


def _judge_ignored(probe: Probe, call: LossCall, claims: Claims) -> None:
    """A mean over some targets only must say over how many."""
    if not call.num_ignored or probe.task.count_targets is not None:
        return
    if probe.config.train.accumulation == 1:
        text = f"{call.num_ignored} of {call.targets.numel()}; count_targets would say"
        claims.show([("targets ignored", text)])
        return
    claims.add(
        "warn",
        "the loss is a mean over fewer targets than are counted",
        expected="count_targets that leaves the ignored ones out",
        actual=f"{call.num_ignored} of {call.targets.numel()} targets are ignored; "
        "every sample counts the same",
        fix="Give nb.Task(..., count_targets=lambda batch: (batch[1] != -100).sum()), "
        "with your ignore_index, so that a window is one big batch.",
    )


def _judge_start(call: LossCall, claims: Claims) -> None:
    """The value at the start against that of an untrained model."""
    if call.reduction != "mean" or call.is_weighted or not call.targets.numel():
        return
    if call.kind in ELEMENTWISE:
        if call.kind == "mean squared error":
            _note_baselines(call, claims)
        return
    if call.kind == "binary cross-entropy":
        theory, name = math.log(2), "ln 2"
    else:
        num_classes = call.outputs.shape[1 if call.outputs.ndim > 1 else 0]
        theory, name = math.log(max(num_classes, 2)), f"ln {num_classes}"
    value = float(call.value)
    noise = 1 + 1 / math.sqrt(call.targets.numel())  # few targets say little
    expected = f"about {theory:.3f} ({name}) without knowledge"
    actual = f"{call.kind} {value:.3f}"
    if value > WARN_FACTOR * noise * theory:
        claims.add(
            "warn",
            f"the loss starts at {value / theory:.1f} times its theoretical value",
            expected=expected,
            actual=actual,
            fix="Scale the inputs to about unit size and look at the last layer's "
            "initialisation; wrong labels of a trained model show the same.",
        )
        return
    note = " (below: trained before, or the answer is in the input)"
    is_low = value < theory / 2
    claims.add(
        "pass",
        "starts where theory says" + (note if is_low else ""),
        expected=expected,
        actual=actual,
    )


def _note_baselines(call: LossCall, claims: Claims) -> None:
    targets = call.targets.float()
    zero = float(targets.square().mean())
    mean = float((targets - targets.mean()).square().mean())
    claims.show(
        [("baselines of MSE", f"predict 0: {zero:.4g}; predict the mean: {mean:.4g}")]
    )


def _judge_terms(probe: Probe, terms: dict[str, Tensor], claims: Claims) -> None:
    """Each weighted term reaches a parameter, and its weight moves the total."""
    weights = {**probe.task.loss_weights, **probe.config.loss.loss_weights}
    parameters = [p for p in _trainable(probe) if p.requires_grad]
    for name, term in terms.items():
        if weights.get(name, 1.0) == 0 or len(terms) == 1:
            continue
        if "terms may rest" in probe.task.declares:
            claims.add("pass", f"term '{name}' may rest, as declared")
            continue
        alive = term.requires_grad and _reaches(term, parameters)
        value = float(term.detach())
        if alive and value != 0:
            claims.add("pass", f"term '{name}' is alive")
            continue
        _note_dead(name, term, value, alive, claims)
    _judge_knobs(probe, terms, weights, claims)


def _trainable(probe: Probe) -> list[torch.nn.Parameter]:
    loss = probe.task.loss
    extra = loss.parameters() if isinstance(loss, torch.nn.Module) else ()
    return [*probe.model.parameters(), *extra]


def _reaches(term: Tensor, parameters: list[torch.nn.Parameter]) -> bool:
    grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return any(grad is not None and bool((grad != 0).any()) for grad in grads)


def _note_dead(
    name: str, term: Tensor, value: float, alive: bool, claims: Claims
) -> None:
    """A term cut off from the parameters is a fault; one at rest may wake up."""
    is_cut = not term.requires_grad
    state = "is cut off from the model" if is_cut else "is at rest"
    grads = (
        "no gradient" if is_cut else ("some" if alive else "only zero") + " gradients"
    )
    claims.add(
        "fail" if is_cut else "warn",
        f"term '{name}' {state}",
        expected="a value other than 0 and a gradient to a parameter",
        actual=f"{name} = {value:.4g} with {grads}",
        fix=f"Compute '{name}' from the outputs without .detach(), set its weight "
        'to 0, or declare "terms may rest".',
    )


def _judge_knobs(
    probe: Probe, terms: dict[str, Tensor], weights: dict[str, float], claims: Claims
) -> None:
    if len(terms) == 1:
        return
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


def _judge_targets(probe: Probe, batch: Any, claims: Claims) -> None:
    if probe.task.num_targets(batch) == 0:
        claims.add(
            "warn",
            "the first batch counts no target",
            expected="at least 1 target",
            actual="count_targets gave 0",
            fix="Look at count_targets: over what is the loss a mean?",
        )


CHECK = Check(
    id="R5",
    title="The loss starts where it should and every term works",
    why="A loss that is cut off or mis-scaled trains for days without learning.",
    run=run,
    needs=("R4",),
)
