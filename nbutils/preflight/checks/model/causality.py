"""Part of R4: a model that predicts what comes next does not see it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.checks.model.next_step import (
    NextStep,
    by_place,
    find_next_steps,
    run_recorded,
    sequences,
)
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_causality"]

SEEN, SURE = 1e-3, 5e-2


def judge_causality(probe: Probe, claims: Claims) -> None:
    """Where targets are inputs further on, look whether outputs see them.

    Judged where the loss is torch's own, and targets are a shifted input.
    """
    probe.rewind()
    batch = probe.data.batch("train")
    given = dict(sequences(batch))
    if not given:
        return
    first, error = attempt(lambda: run_recorded(probe, batch))
    if error is not None:
        return
    tasks = list(find_next_steps(given, *first))
    ahead = [task for task in tasks if task.shift == 1]
    if ahead and all(task.num_embedded < 2 for task in ahead):
        _judge_future(probe, batch, given, ahead, claims)
    elif not ahead and any(task.shift == 2 for task in tasks):
        _note_double_shift(claims)
    elif tasks and not ahead:
        _judge_copy(probe, batch, given, tasks[0], claims)


def _perturbed(batch: Any, path: str, first: int) -> Any:
    """The batch with other values from place ``first`` on in one of its tensors.

    Zeros, and what ends a row twice, may be padding: they stay, so that lengths do.
    """
    twin = copy.deepcopy(batch)
    tensor = dict(tensors(twin))[path]
    tail = tensor[:, first:]
    if tensor.is_floating_point():
        noise = torch.randn(tail.shape, dtype=torch.float32)
        tensor[:, first:] = tail + noise.to(tail.dtype) * tensor.std()
        return twin
    ends = tensor[tensor[:, -1] == tensor[:, -2]][:, -1]
    values = torch.unique(tensor)
    values = values[~torch.isin(values, ends) & (values != 0)]
    if len(values) > 1:
        at = torch.searchsorted(values, tail.contiguous()).clamp(max=len(values) - 1)
        others = values.roll(1)[at]
        tensor[:, first:] = torch.where(torch.isin(tail, values), others, tail)
    return twin


def _changes(
    probe: Probe, batch: Any, task: NextStep, sequence: Tensor
) -> Tensor | None:
    """How much each place's output moves when later inputs do: ``(B, T)``.

    Relative to the largest change; none if the outputs do not answer to this input.
    """
    like = sequence[:, : task.used.shape[1]]
    found = []
    for variant in (batch, _perturbed(batch, task.path, _first(task))):
        calls = run_recorded(probe, variant)[0]
        outputs = calls[task.call].outputs.detach()
        found.append(by_place(outputs, like))
    change = (found[0] - found[1]).abs().amax(-1)
    scale = float(found[0].abs().max())
    largest = float(change.max())
    is_heard = largest > 1e-6 * max(scale, 1e-12)
    return change / largest if is_heard else None


def _first(task: NextStep) -> int:
    """The place from which on inputs are changed."""
    return max(2, task.used.shape[1] * 2 // 3)


def _judge_future(
    probe: Probe,
    batch: Any,
    given: dict[str, Tensor],
    tasks: list[NextStep],
    claims: Claims,
) -> None:
    """Next-step prediction: outputs before a change in the input must not move."""
    heard: list[tuple[NextStep, Tensor]] = []
    for task in {task.path: task for task in tasks}.values():
        change, error = attempt(lambda t=task: _changes(probe, batch, t, given[t.path]))
        if error is None and change is not None:
            heard.append((task, change))
    if len(heard) != 1:
        return
    task, change = heard[0]
    sequence, first = given[task.path], _first(task)
    places = task.used.clone()
    places[:, first:] = False
    if not bool(places.any()):
        return
    worst = float(change[places].max())
    if worst <= SEEN:
        claims.add("pass", "outputs do not see the inputs that they predict")
    elif _has_bottleneck(probe, batch, sequence):
        text = "through a code of the whole sequence, as in an autoencoder"
        claims.show([("outputs depend on later inputs", text)])
    else:
        at = int((change * places).amax(0).argmax())
        is_sure = worst > SURE and not sequence.is_floating_point()
        is_sure = is_sure and not _has_decoder(probe.model)
        _note_future(task, at, worst, is_sure, claims)


def _note_future(
    task: NextStep, at: int, worst: float, is_sure: bool, claims: Claims
) -> None:
    claims.add(
        "fail" if is_sure else "warn",
        "the model sees the future: output at position t depends on token t+1",
        expected="an output that depends on inputs up to its own place only",
        actual=f"the targets are '{task.path}' one place on; with only places from "
        f"{_first(task)} on changed, the output at {at} moves, {worst:.1%} of the "
        "largest change",
        fix="Give the attention a causal mask (is_causal=True, with the mask), use a "
        "one-directional RNN, or pad convolutions on the left only.",
    )


def _has_decoder(model: nn.Module) -> bool:
    """Whether an encoder may hand the whole sequence over on purpose."""
    kinds = (nn.Transformer, nn.TransformerDecoderLayer)
    names = [name.lower() for name, _ in model.named_modules()]
    told = any("encoder" in n for n in names) and any("decoder" in n for n in names)
    return told or any(isinstance(module, kinds) for module in model.modules())


def _note_double_shift(claims: Claims) -> None:
    claims.add(
        "warn",
        "the targets are shifted twice: position t is compared with token t+2",
        expected="targets one place after the input",
        actual="each target equals the input two places further on",
        fix="Shift once, in the data or in the loss; models of Hugging Face shift "
        "labels themselves.",
    )


def _judge_copy(
    probe: Probe,
    batch: Any,
    given: dict[str, Tensor],
    task: NextStep,
    claims: Claims,
) -> None:
    """Tokens compared with themselves by a causal model: there is nothing to learn."""
    sequence = given[task.path]
    if sequence.is_floating_point() or task.num_embedded != 1:
        return
    first = _first(task)
    change, error = attempt(lambda: _changes(probe, batch, task, sequence))
    if error is not None or change is None:
        return
    early = change[:, :first]
    is_causal = float(early.max()) <= SEEN
    sees_itself = float(change[:, first].max()) > SEEN
    if is_causal and sees_itself and bool(task.used.float().mean() > 0.5):
        claims.add(
            "warn",
            "the targets are not shifted: the model learns to copy its input",
            expected="targets one place after the input: x[:, :-1] against x[:, 1:]",
            actual=f"the target at each position is '{task.path}' at that position, "
            "which the output sees",
            fix="Compare outputs[:, :-1] with tokens[:, 1:].",
        )


def _has_bottleneck(probe: Probe, batch: Any, sequence: Tensor) -> bool:
    """Whether a module other than an RNN gives a code without an axis of places."""
    size, length = sequence.shape[:2]
    codes: list[str] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, nn.RNNBase):
            return
        for _, tensor in tensors(output):
            is_float = tensor.is_floating_point() and tensor.ndim > 1
            has_places = any(n >= length - 2 for n in tensor.shape[1:-1])
            if is_float and tensor.shape[0] == size and not has_places:
                codes.append(type(module).__name__)

    handles = [m.register_forward_hook(note) for m in probe.model.modules()]
    try:
        with torch.no_grad():
            attempt(lambda: probe.forward(probe.fresh(batch), training=False))
    finally:
        for handle in handles:
            handle.remove()
    return bool(codes)
