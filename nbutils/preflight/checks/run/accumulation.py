"""R9: a window of micro-batches gives the gradient of one big batch."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import batch_size
from nbutils.data.loader import OrderedLoader
from nbutils.preflight.check import Check, Claims
from nbutils.preflight.probe import Probe, attempt
from nbutils.preflight.rehearsal import Rehearsal, rehearsing
from nbutils.train.notifier import Notifier
from nbutils.train.oom import split_batch

__all__ = ["CHECK"]

MAX_SAMPLES = 16
TOLERANCE = 2e-3
"""Relative; fp32 rounding stays below 1e-4, a wrong count is far above."""

Gradients = dict[str, Tensor]
SUBJECT = "accumulation against one batch"


def run(probe: Probe, claims: Claims) -> None:
    """The same samples as one batch and as ragged parts, in eval mode and fp32."""
    is_rehearsal = probe.facts.get("depth") == "rehearsal"
    if not is_rehearsal and probe.config.train.accumulation == 1:
        claims.add("skip", f"{SUBJECT}: accumulation is 1")
        return
    if "samples interact" in probe.task.declares:
        claims.add("skip", f"{SUBJECT}: samples interact, as declared")
        return
    windows, error = attempt(lambda: _windows(probe))
    if error is not None or windows is None:
        reason = f"the samples do not join ({error})" if error else "one sample a batch"
        claims.add("skip", f"{SUBJECT}: {reason}")
        return
    whole, parts = windows
    with (
        rehearsing(probe, precision="fp32") as rehearsal,
        torch.backends.cudnn.flags(enabled=False),  # its RNNs refuse eval mode
    ):
        first, error = attempt(lambda: _gradients(probe, rehearsal, [whole], times=2))
        if error is not None:
            claims.add("skip", f"{SUBJECT}: in eval mode {error}")
            return
        if _distance(first[0], first[1]) > TOLERANCE:
            claims.add("skip", f"{SUBJECT}: the loss draws random numbers in eval mode")
            return
        second, error = attempt(lambda: _gradients(probe, rehearsal, parts))
    if error is not None:
        claims.add("skip", f"{SUBJECT}: the model refuses smaller batches ({error})")
        return
    nature = _nature(probe, whole, parts)
    sizes = " + ".join(str(batch_size(part)) for part in parts)
    _judge(probe, sizes, _distance(first[0], second[0]), nature, claims)


def _windows(probe: Probe) -> tuple[Any, list[Any]] | None:
    """One batch and the same samples as ragged parts; none if it holds but one."""
    count = min(probe.data.configured_size, MAX_SAMPLES)
    if count < 2:
        return None
    num_parts = min(max(probe.config.train.accumulation, 2), count)
    data, loader = probe.data.samples("train"), probe.data.loader("train")
    if data is None or not isinstance(loader, OrderedLoader):
        whole = probe.data.batch("train")
        return copy.deepcopy(whole), split_batch(copy.deepcopy(whole), num_parts)
    samples = [data[index] for index in loader.indices(0)[:count]]
    if len(samples) < 2:
        return None
    whole = probe.data.collate(copy.deepcopy(samples))
    parts, error = attempt(lambda: split_batch(copy.deepcopy(whole), num_parts + 1))
    if error is None and len(parts) > 1:
        return whole, parts  # padded alike: a model may look at its padding
    bounds = [0, *_ragged(len(samples), num_parts), len(samples)]
    runs = [copy.deepcopy(samples[a:b]) for a, b in pairwise(bounds)]
    return whole, [probe.data.collate(run) for run in runs]


def _ragged(size: int, num_parts: int) -> list[int]:
    """Inner edges of parts of which the first is the largest.

    Example:
        >>> _ragged(16, 2), _ragged(16, 4), _ragged(2, 2)
        ([11], [10, 12, 14], [1])
    """
    share = max(2 * size // (3 * num_parts), 1)
    return [size - share * behind for behind in range(num_parts - 1, 0, -1)]


def _gradients(
    probe: Probe, rehearsal: Rehearsal, window: list[Any], times: int = 1
) -> list[Gradients]:
    """What the run's own step accumulates over a window, ``times`` in a row."""
    session = rehearsal.session()
    found: list[Gradients] = []

    def capture(total: Tensor) -> tuple[Tensor, Tensor]:
        named = session.task.model.named_parameters()
        grads = {n: p.grad.detach().clone() for n, p in named if p.grad is not None}
        found.append(grads)
        session.optimizer.zero_grad(set_to_none=True)
        session.task.model.zero_grad(set_to_none=True)
        return total.detach(), torch.zeros_like(total.detach())

    step: Any = session.loop(Notifier([])).step
    step = replace(step, update=capture)
    for part in (session.task.model, session.task.loss):
        if isinstance(part, torch.nn.Module):
            part.eval()  # after the session, which asks for train mode
    try:
        for _ in range(times):
            step(copy.deepcopy(window))
    finally:
        session.close()
        probe.rewind()
    return found


def _distance(one: Gradients, other: Gradients) -> float:
    """Norm of the difference over the norm of the first, all parameters together."""
    zero = torch.zeros(())
    difference = scale = 0.0
    for name in one.keys() | other.keys():
        a, b = one.get(name, zero), other.get(name, zero)
        a, b = (t.coalesce().to_dense() if t.is_sparse else t for t in (a, b))
        difference += float((a - b.to(a.device)).abs().square().sum())
        scale += float(a.abs().square().sum())
    return (difference / max(scale, 1e-24)) ** 0.5


def _judge(probe: Probe, sizes: str, worst: float, nature: str, claims: Claims) -> None:
    text = f"{worst:.1%} off for {sizes} samples, fp32, eval mode"
    if worst <= TOLERANCE:
        claims.add(
            "pass",
            "parts and whole give one gradient",
            expected=f"a relative difference below {TOLERANCE:g}",
            actual=f"{worst:.1e} for {sizes} samples, fp32, eval mode",
        )
        return
    if nature == "weighted":
        claims.add("pass", "class weights are averaged within each batch, as usual")
        claims.show([("micro-batches against the whole", text)])
        return
    if probe.config.train.accumulation == 1:
        claims.add("pass", "accumulation is 1: parts need not add up")
        claims.show([("if batches were split", f"{text}; give count_targets then")])
        return
    is_sum = nature == "sum"
    claims.add(
        "warn",
        "the loss is a sum over the batch: accumulation expects a mean"
        if is_sum
        else "micro-batches do not add up to the whole batch",
        expected="the gradient of the whole batch",
        actual=text,
        fix="Let the loss be a mean: reduction='mean', or divide by the number of "
        "targets in the batch, not by a constant."
        if is_sum
        else "Give count_targets: over how many targets is the loss a mean (tokens, "
        "pixels, unmasked places)? A loss that compares the samples of a batch "
        'cannot be split: declare "samples interact".',
    )


def _nature(probe: Probe, whole: Any, parts: list[Any]) -> str:
    """``"sum"`` where parts add up; ``"weighted"`` where classes weigh differently."""
    calls: list[Any] = []

    def losses() -> list[float]:
        with torch.no_grad(), probe.recording() as recorder:
            found = [float(probe.loss(b, training=False)) for b in (whole, *parts)]
        calls.extend(recorder.losses)
        return found

    probe.rewind()
    found, error = attempt(losses)
    probe.rewind()
    if error is not None:
        return ""
    total, *shares = found
    if abs(sum(shares) - total) <= TOLERANCE * abs(total):
        return "sum"
    return "weighted" if any(call.is_weighted for call in calls) else ""


CHECK = Check(
    id="R9",
    title="Micro-batches add up to one big batch",
    why="A wrong count weighs some samples more than others, in every window.",
    run=run,
    needs=("R6",),
)
