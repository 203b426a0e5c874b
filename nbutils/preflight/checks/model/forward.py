"""R4: the model takes every batch, keeps samples apart, and can be measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import describe, tensors
from nbutils.data.contract import Contract
from nbutils.errors import ContractError
from nbutils.preflight.blame import quote
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.checks.judged import judge_part
from nbutils.preflight.checks.model.causality import judge_causality
from nbutils.preflight.checks.model.companions import distance, judge_companions
from nbutils.preflight.checks.model.imaginary import judge_imaginary
from nbutils.preflight.checks.model.linearity import judge_linearity
from nbutils.preflight.checks.model.metrics import judge_metrics
from nbutils.preflight.checks.model.padded import judge_padded
from nbutils.preflight.checks.model.reshapes import judge_reshapes
from nbutils.preflight.checks.model.resting_norms import judge_resting_norms
from nbutils.preflight.checks.model.settled import (
    Shapes,
    judge_axis,
    judge_dropped,
    judge_settled,
)
from nbutils.preflight.checks.model.skipped import judge_skipped
from nbutils.preflight.data_probe import Case
from nbutils.preflight.probe import Probe, attempt

__all__ = ["CHECK"]

MAX_SECONDS = 15.0
NOTABLE = 1e-3


def run(probe: Probe, claims: Claims) -> None:
    """Forward in both modes, what the outputs depend on, and what is measured."""
    _note_lazy(probe, claims)
    deadline = time.perf_counter() + MAX_SECONDS
    late = "not tried, since the model is slow here: "
    shapes: dict[Case, Shapes] = {}
    for case in probe.data.cases():
        if not case.is_met and time.perf_counter() > deadline:
            claims.add("skip", f"{late}{case.name}")
            continue
        for training in (True, False):
            if case.split == "train" or not training:
                outputs = _judge_forward(probe, case, training, claims)
                shapes[case] = {p: tuple(t.shape) for p, t in tensors(outputs)}
            if claims.worst == "fail":
                return  # the other batches would say the same
    judge_axis(shapes, claims)
    with torch.no_grad():
        _judge_labels(probe, claims)
    parts = {
        "repeats": _judge_repeats,
        "companions": judge_companions,
        "padding": judge_padded,
        "whether the future is seen": judge_causality,
        "activations": judge_linearity,
        "reshapes": judge_reshapes,
        "imaginary parts": judge_imaginary,
        "norms that rest": judge_resting_norms,
        "dropout of outputs": judge_dropped,
        "strides": judge_skipped,
    }
    for name, judge in parts.items():
        if claims.worst == "fail":
            return
        if min(deadline - time.perf_counter(), probe.seconds_left) < 0:
            claims.add("skip", f"{late}{name}")
        else:
            judge_part(name, lambda j=judge: j(probe, claims), claims)
    if claims.worst != "fail":
        judge_metrics(probe, claims)


def _note_lazy(probe: Probe, claims: Claims) -> None:
    if probe.is_lazy:
        claims.add(
            "warn",
            "the model is lazy: its first forward pass creates parameters",
            expected="parameters that exist before the optimizer is built",
            actual="uninitialised parameters; a copy of the model was tested",
            fix="Run the model on one batch before you build the task.",
        )


def _judge_forward(probe: Probe, case: Case, training: bool, claims: Claims) -> Any:
    """The outputs, if there are any."""
    batch = probe.data.batch(case.split, case.size, case.number)
    mode = "train" if training else "eval"
    probe.rewind()

    def call() -> Any:
        # In train mode with gradients: a forward may differentiate by itself.
        with torch.set_grad_enabled(training), probe.recording():
            return probe.forward(probe.fresh(batch), training=training)

    outputs, error = attempt(call)
    if isinstance(error, torch.OutOfMemoryError):
        _note_memory(case, error, claims)
    elif error is not None:
        _note_refusal(probe, case, mode, batch, error, claims)
    else:
        got = "; ".join(f"{p}: {t}" for p, t in _described(outputs).items())
        claims.show([(f"output, {case.name}, {mode}", got)])
        if case.is_met:
            title = f"{case.name}, {mode}: forward runs"
            claims.add("pass", title, expected=_form(outputs), actual=got)
            _judge_nan(probe, case, mode, batch, outputs, claims)
    return outputs


def _form(outputs: Any) -> str:
    """What outputs look like at any batch size; empty where it cannot be told."""
    contract, error = attempt(lambda: Contract.infer([outputs]))
    if error is not None:
        return ""
    rows = contract.table()
    return "; ".join(f"{p.replace('batch', 'output')}: {d} {s}" for p, d, s in rows)


def _described(outputs: Any) -> dict[str, str]:
    return {p.replace("batch", "output"): t for p, t in describe(outputs).items()}


def _note_memory(case: Case, error: Exception, claims: Claims) -> None:
    claims.add(
        "warn",
        f"the {case.name} does not fit into memory",
        expected="a batch that fits",
        actual=str(error).split("\n")[0],
        fix="Use a smaller batch_size and more accumulation; on_oom='split' does so.",
    )


def _note_refusal(
    probe: Probe, case: Case, mode: str, batch: Any, error: Exception, claims: Claims
) -> None:
    """The model raised: a failure where the run will meet this batch and mode."""
    is_batch_norm = "more than 1 value per channel" in str(error)
    place = probe.trace.where() if probe.trace else ""
    got = "\n".join(f"{p}: {t}" for p, t in describe(batch).items())
    fix = "Compare the input's shape with what the named module expects."
    if is_batch_norm:
        fix = (
            "BatchNorm needs more than one value per channel: set drop_last=True, or "
            "a batch_size that leaves no batch of 1."
        )
    elif "outside" in str(error):
        fix = ""
    if is_batch_norm and not case.is_met:
        claims.show([(f"output, {case.name}, {mode}", "refused by BatchNorm, not met")])
        return
    claims.add(
        "fail" if case.is_met else "warn",
        f"the model refuses the {case.name} in {mode} mode",
        expected=f"outputs for\n{got}",
        actual="\n".join(part for part in (quote(error), place) if part),
        fix=fix,
    )


def _judge_nan(
    probe: Probe, case: Case, mode: str, batch: Any, outputs: Any, claims: Claims
) -> None:
    """NaN in the outputs matters unless the loss leaves it out."""
    first = probe.trace.first_nan if probe.trace else ""
    if not any(bool(t.isnan().any()) for _, t in _floats(outputs)):
        return
    moved = probe.fresh(batch)
    loss, error = attempt(lambda: probe.total(probe.terms(outputs, moved)))
    is_used = error is not None or not bool(torch.isfinite(loss))
    claims.add(
        "fail" if is_used else "warn",
        f"NaN in the outputs for the {case.name} in {mode} mode",
        expected="finite outputs",
        actual=f"NaN, first from module {first}" if first else "NaN in the outputs",
        fix="Look there for a division by 0, a log or root of 0, or bad weights.",
    )


def _floats(outputs: Any) -> Iterator[tuple[str, Tensor]]:
    for path, tensor in tensors(outputs):
        if tensor.is_floating_point() or tensor.is_complex():
            yield path, tensor.detach()


def _judge_labels(probe: Probe, claims: Claims) -> None:
    """Try the loss on the first batch, and on the samples with extreme integers."""
    tried: list[tuple[str, Any]] = [("the first batch", probe.data.batch("train"))]
    for split in ("train", "val"):
        found = probe.data.scan(split) if probe.data.has(split) else None
        for path, extent in (found.extents if found else {}).items():
            for index in sorted({extent.low_index, extent.high_index}):
                sample = probe.data.samples(split)[index]  # type: ignore[index]
                few = [sample] * min(2, probe.data.configured_size)
                batch, error = attempt(lambda s=few: probe.data.collate(s))
                if error is None:
                    tried.append((f"{split}[{index}] ('{path}')", batch))
    for name, batch in tried[:16]:
        probe.rewind()
        _, error = attempt(lambda b=batch: _recorded_loss(probe, b))
        if isinstance(error, ContractError) and " is outside " in str(error):
            claims.add(
                "fail",
                f"an index is out of range in {name}",
                expected="labels within the head, ids within the embedding",
                actual=f"{name}: {quote(error)}",
                fix="Set the size of the head from the data, or correct the labels.",
            )
            return


def _recorded_loss(probe: Probe, batch: Any) -> Tensor:
    with probe.recording():
        return probe.loss(batch, training=False)


def _small_batch(probe: Probe) -> Any:
    """A batch of two where the model takes one: it tells as much in less time."""
    if probe.data.samples("train") is not None and probe.data.configured_size > 2:
        batch = probe.data.batch("train", 2)
        _, error = attempt(lambda: probe.forward(probe.fresh(batch), training=False))
        if error is None:
            return batch
    return probe.data.batch("train")


@torch.no_grad()
def _judge_repeats(probe: Probe, claims: Claims) -> None:
    """The same batch twice in eval mode; if not equal, what randomness is in use."""
    batch = _small_batch(probe)
    probe.rewind()
    with probe.recording() as recorder:
        first = dict(_floats(probe.forward(probe.fresh(batch), training=False)))
    second = dict(_floats(probe.forward(probe.fresh(batch), training=False)))
    worst = max((distance(a, second[p]) for p, a in first.items()), default=0.0)
    if worst <= NOTABLE:
        claims.add("pass", "eval mode: same input, same output")
        return
    if "random in eval" in probe.task.declares:
        claims.add("pass", "outputs are random in eval mode, as declared")
        return
    forced = ", ".join(dict.fromkeys(recorder.forced_dropout))
    probe.facts["random in eval"] = True
    if judge_settled(probe, batch, claims):
        return
    if not forced:  # diffusion, sampling, random masks
        claims.show([("eval mode", f"outputs of one input differ by {worst:.1%}")])
        return
    claims.add(
        "warn",  # Monte Carlo dropout does it on purpose
        "eval mode: the same input gives different outputs",
        expected="the same output twice",
        actual=f"outputs differ by {worst:.1%}; active in eval mode: {forced}",
        fix="Pass training=self.training to functional dropout (dropout_p=0 in eval); "
        'if sampling is meant, declare "random in eval".',
    )


CHECK = Check(
    id="R4",
    title="The model takes every batch and treats samples alike",
    why="A shape error ends the run late; leaking samples make every metric a lie.",
    run=run,
    needs=("S1", "R2", "R3"),
)
