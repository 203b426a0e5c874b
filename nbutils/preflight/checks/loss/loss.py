"""R5: the loss is a finite scalar, is fed what it wants, and leads to the targets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import describe, tensors
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.loss.activations_in_loss import (
    ELEMENTWISE,
    judge_activations,
    judge_reach,
)
from nbutils.preflight.checks.loss.baselines import judge_declared
from nbutils.preflight.checks.loss.class_weights import judge_classes
from nbutils.preflight.checks.loss.domains import explain_refusal, judge_domains
from nbutils.preflight.checks.loss.free_outputs import judge_free_outputs
from nbutils.preflight.checks.loss.likelihood import judge_likelihood
from nbutils.preflight.checks.loss.starts import judge_start
from nbutils.preflight.checks.loss.targets import float_pairs
from nbutils.preflight.checks.loss.terms import judge_terms
from nbutils.preflight.checks.loss.unheard import judge_unheard
from nbutils.preflight.data_probe import Case
from nbutils.preflight.distributions import watched_likelihoods
from nbutils.preflight.free_outputs import FreeOutputs
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.watch import LossCall, Recorder

__all__ = ["CHECK"]


def run(probe: Probe, claims: Claims) -> None:
    """Judge the loss of the first batch in train mode."""
    moved = probe.fresh(probe.data.batch("train"))
    probe.rewind()
    with probe.recording() as recorder, watched_likelihoods() as likelihoods:
        outputs = probe.forward(moved, training=True)
        before = len(recorder.origins.twice)
        terms, error = attempt(lambda: probe.terms(outputs, moved))
    probe.facts["distributions"], probe.facts["outputs"] = recorder.drawn, outputs
    if error is not None:
        _note_error(error, outputs, claims)
        return
    claims.show(
        (f"term {name}", f"{float(t.detach()):.5g}") for name, t in terms.items()
    )
    total = probe.total(terms)
    if not _judge_total(terms, total, claims):
        return
    judge_likelihood(likelihoods, total, claims)
    for call in recorder.losses:
        judge_domains(call, claims)
        if _judge_shapes(call, claims):
            judge_start(call, probe, claims)
        _judge_ignored(probe, call, claims)
        judge_classes(probe, call, claims)
    judge_activations(recorder, recorder.origins.twice[before:], claims)
    free = _free(probe, recorder, outputs)
    judge_terms(probe, terms, free, claims)
    _judge_targets(probe, moved, claims)
    del terms, total
    _judge_cases(probe, claims)
    if not any(claim.severity == "fail" for claim in claims.claims):
        _judge_alone(probe, recorder, free, claims)


def _judge_cases(probe: Probe, claims: Claims) -> None:
    """The other batches of the run: the short last one, those of validation."""
    for case in probe.data.cases()[1:]:
        if not case.is_met or probe.seconds_left < 0:
            continue
        batch = probe.fresh(probe.data.batch(case.split, case.size, case.number))
        probe.rewind()
        training = case.split == "train"  # a forward may differentiate by itself
        with torch.set_grad_enabled(training):
            outputs = _untraced(probe, batch, training=training)
            terms, error = attempt(lambda o=outputs, b=batch: probe.terms(o, b))
        if error is not None:
            _note_error(error, outputs, claims, f" for the {case.name}")
            return
        bad = [name for name, t in (terms or {}).items() if bool(t.isnan().any())]
        if bad and not _has_missing(batch):
            _note_nan(case, bad, claims)
            return
    probe.rewind()


def _untraced(probe: Probe, batch: Any, *, training: bool) -> Any:
    """Outputs as the run gets them: torch has fast paths for modules without hooks."""
    probe.set_mode(training=training)
    with probe.precision.autocast():
        return probe.task.forward(probe.model, batch)


def _has_missing(batch: Any) -> bool:
    """Whether NaN stands in the batch itself, which other checks judge."""
    floats = (t for _, t in tensors(batch) if t.is_floating_point())
    return any(bool(t.isnan().any()) for t in floats)


def _note_nan(case: Case, bad: list[str], claims: Claims) -> None:
    mode = "train" if case.split == "train" else "eval"
    claims.add(
        "fail" if case.split == "train" else "warn",
        f"the loss is NaN for the {case.name} in {mode} mode",
        expected="a finite number, as for the first batch",
        actual=", ".join(f"{name} = nan" for name in bad),
        fix="Look for an attention mask that hides every place of a row, a division "
        "by a count of 0, or statistics of a single sample.",
    )


def _free(probe: Probe, recorder: Recorder, outputs: Any) -> FreeOutputs:
    """The outputs as free numbers, beside a batch of their own."""
    origins = {path: recorder.origins.of(t) for path, t in tensors(outputs)}
    batch = probe.fresh(probe.data.batch("train"))
    return FreeOutputs(probe, batch, outputs, origins)


def _judge_alone(
    probe: Probe, recorder: Recorder, free: FreeOutputs, claims: Claims
) -> None:
    """The loss as a function of the outputs, and what trivial answers would reach."""
    judge_free_outputs(probe, free, claims)
    if not any(call.kind in ELEMENTWISE for call in recorder.losses):
        _judge_reaches(free, claims)
    judge_unheard(probe, claims)
    judge_declared(probe, probe.fresh(probe.data.batch("train")), claims)
    probe.rewind()


def _judge_reaches(free: FreeOutputs, claims: Claims) -> None:
    """Outputs of a loss written by hand against targets of their form."""
    for pair in float_pairs(free):
        origin = free.origins[pair.number]
        if origin is not None and free.uses.get(pair.path) == "rows":
            judge_reach(origin, pair.target, "loss", claims)


def _note_error(
    error: Exception, outputs: Any, claims: Claims, where: str = ""
) -> None:
    got = ", ".join(f"{p}: {t}" for p, t in describe(outputs).items())
    claims.add(
        "fail",
        f"the loss cannot be computed{where}",
        expected="a real scalar tensor, or a dict of them",
        actual=f"{quote(error)}\noutputs were {got}",
        fix=explain_refusal(str(error))
        or "Compare the outputs with what the loss expects.",
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
