"""Part of R4: a model that predicts what comes next does not see it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import tensors
from nbutils.preflight.check import Claims
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe, attempt

__all__ = ["judge_causality"]

LOSSES = (
    functional.cross_entropy, functional.nll_loss, functional.mse_loss,
    functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss,
)  # fmt: skip
MIN_LENGTH = 4
MIN_PLACES = 8
ALIKE = 0.99
SEEN, SURE = 1e-3, 5e-2
IGNORED = -100


@dataclass
class _Call:
    outputs: Tensor
    targets: Tensor


@dataclass
class _Calls(TorchFunctionMode):
    """Losses with their graph, and how often tokens are embedded."""

    found: list[_Call] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES:
            given = inspect.signature(func).bind(*args, **kwargs).arguments
            self.found.append(_Call(given["input"], given["target"].detach()))
        if func is functional.embedding and args and isinstance(args[0], Tensor):
            self.embedded.append(args[0].detach())
        return func(*args, **kwargs)


@dataclass(frozen=True)
class _Task:
    """A loss that compares place ``t`` with the input at ``t + shift``.

    Args:
        path: The input's place in the batch.
        shift: By how many places the targets lie ahead.
        call: Which loss call.
        used: Places ``(B, T)`` whose outputs the loss learns from.
        num_embedded: How often the input was embedded.
    """

    path: str
    shift: int
    call: int
    used: Tensor
    num_embedded: int


def judge_causality(probe: Probe, claims: Claims) -> None:
    """Where targets are inputs further on, look whether outputs see them.

    Judged where the loss is torch's own, and targets are a shifted input.
    """
    probe.rewind()
    batch = probe.data.batch("train")
    sequences = dict(_sequences(batch))
    if not sequences:
        return
    first, error = attempt(lambda: _run(probe, batch))
    if error is not None:
        return
    tasks = list(_tasks(sequences, *first))
    ahead = [task for task in tasks if task.shift == 1]
    if ahead and all(task.num_embedded < 2 for task in ahead):
        _judge_future(probe, batch, sequences, ahead, claims)
    elif not ahead and any(task.shift == 2 for task in tasks):
        _note_double_shift(claims)
    elif tasks and not ahead:
        _judge_copy(probe, batch, sequences, tasks[0], claims)


def _sequences(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """Tokens ``(B, T)`` and series ``(B, T)`` or ``(B, T, F)`` of a batch."""
    for path, tensor in tensors(batch):
        if tensor.dtype == torch.bool or tensor.ndim not in (2, 3):
            continue
        is_series = tensor.ndim == 2 or tensor.is_floating_point()
        if is_series and tensor.shape[1] >= MIN_LENGTH:
            yield path, tensor


def _run(probe: Probe, batch: Any) -> tuple[list[_Call], Tensor, list[Tensor]]:
    """Losses of a pass in eval mode, its total, and what was embedded."""
    seed_everything(probe.seed)
    calls = _Calls()
    with torch.enable_grad(), calls:
        total = probe.loss(batch, training=False)
    return calls.found, total, calls.embedded


def _tasks(
    sequences: dict[str, Tensor],
    calls: list[_Call],
    total: Tensor,
    embedded: list[Tensor],
) -> Iterator[_Task]:
    for number, call in enumerate(calls):
        for path, sequence in sequences.items():
            found = _shift(sequence, call)
            if found is None:
                continue
            used = _used(call, total, found[1])
            if used is not None and bool(used.any()):
                tokens = [e for e in embedded if _holds(e, sequence)]
                yield _Task(path, found[0], number, used, len(tokens))


def _holds(embedded: Tensor, sequence: Tensor) -> bool:
    """Whether these embedded tokens are the sequence, or all but an end of it."""
    if embedded.ndim != 2 or embedded.shape[0] != sequence.shape[0]:
        return False
    embedded, width = embedded.to(sequence.device), embedded.shape[1]
    if not MIN_LENGTH - 1 <= width <= sequence.shape[1]:
        return False
    gap = sequence.shape[1] - width
    return any(
        bool((embedded == sequence[:, lead : lead + width]).float().mean() > 0.9)
        for lead in {0, gap}
    )


def _shift(sequence: Tensor, call: _Call) -> tuple[int, Tensor] | None:
    """By how much the targets of a call lie ahead of a sequence, and the targets.

    A shift counts where it fits and no other does: a constant fits them all.
    """
    targets = call.targets
    size, length = sequence.shape[:2]
    tail = sequence.shape[2:]
    per_place = tail.numel() if tail else 1
    if targets.numel() % (size * per_place):
        return None
    width = targets.numel() // (size * per_place)
    if not max(2, length - 2) <= width <= length:
        return None
    if targets.dtype.is_floating_point != sequence.dtype.is_floating_point:
        return None
    targets = targets.reshape(size, width, *tail).to(sequence.device)
    fitting = [s for s in (0, 1, 2) if _fits(sequence, targets, s)]
    return (fitting[0], targets) if len(fitting) == 1 else None


def _fits(sequence: Tensor, targets: Tensor, shift: int) -> bool:
    count = min(targets.shape[1], sequence.shape[1] - shift)
    if count < 2:
        return False
    ours = targets[:, :count]
    theirs = sequence[:, shift : shift + count]
    judged = ours != IGNORED
    if int(judged.sum()) < MIN_PLACES:
        return False
    return bool((ours == theirs)[judged].float().mean() >= ALIKE)


def _used(call: _Call, total: Tensor, targets: Tensor) -> Tensor | None:
    """Places ``(B, T)`` whose outputs get a gradient from the loss."""
    if not call.outputs.requires_grad:
        return None
    grad = torch.autograd.grad(
        total, call.outputs, retain_graph=True, allow_unused=True
    )[0]
    return None if grad is None else _by_place(grad, targets).abs().sum(-1) > 0


def _by_place(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs of a loss call as ``(B, T, ...)`` flattened to three axes."""
    size, width = targets.shape[:2]
    is_classes_second = outputs.ndim == 3 and outputs.shape[2] == width
    is_flat = outputs.shape[0] == size * width
    if is_classes_second and not is_flat and not targets.is_floating_point():
        outputs = outputs.transpose(1, 2)
    return outputs.reshape(size, width, -1)


def _perturbed(batch: Any, path: str, first: int) -> Any:
    """The batch with other values from place ``first`` on in one of its tensors.

    And in those that hold the same values shifted, such as targets. Zeros and what
    ends a row twice may be padding: they stay, so that lengths do.
    """
    twin = copy.deepcopy(batch)
    for place, tensor in tensors(twin):
        if place != path:
            continue
        tail = tensor[:, first:]
        if tensor.is_floating_point():
            noise = torch.randn(tail.shape, dtype=torch.float32)
            tensor[:, first:] = tail + noise.to(tail.dtype) * tensor.std()
            continue
        values = torch.unique(tensor)
        padding = set(tensor[tensor[:, -1] == tensor[:, -2]][:, -1].tolist()) | {0}
        values = torch.tensor([v for v in values.tolist() if v not in padding])
        if len(values) < 2:
            continue
        moved = tail.clone()
        for old, new in zip(values, values.roll(1), strict=True):
            moved[tail == old] = new.to(moved.dtype)
        tensor[:, first:] = moved
    return twin


def _changes(probe: Probe, batch: Any, task: _Task, sequence: Tensor) -> Tensor | None:
    """How much each place's output moves when later inputs do: ``(B, T)``.

    Relative to the largest change; none if the outputs do not answer to this input.
    """
    like = sequence[:, : task.used.shape[1]]
    found = []
    for given in (batch, _perturbed(batch, task.path, _first(task))):
        calls = _run(probe, given)[0]
        outputs = calls[task.call].outputs.detach()
        found.append(_by_place(outputs, like))
    change = (found[0] - found[1]).abs().amax(-1)
    scale = float(found[0].abs().max())
    largest = float(change.max())
    is_heard = largest > 1e-6 * max(scale, 1e-12)
    return change / largest if is_heard else None


def _first(task: _Task) -> int:
    """The place from which on inputs are changed."""
    return max(2, task.used.shape[1] * 2 // 3)


def _judge_future(
    probe: Probe,
    batch: Any,
    sequences: dict[str, Tensor],
    tasks: list[_Task],
    claims: Claims,
) -> None:
    """Next-step prediction: outputs before a change in the input must not move."""
    heard: list[tuple[_Task, Tensor]] = []
    for task in {task.path: task for task in tasks}.values():
        change, error = attempt(
            lambda t=task: _changes(probe, batch, t, sequences[t.path])
        )
        if error is None and change is not None:
            heard.append((task, change))
    if len(heard) != 1:
        return
    task, change = heard[0]
    sequence, first = sequences[task.path], _first(task)
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
    task: _Task, at: int, worst: float, is_sure: bool, claims: Claims
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
    sequences: dict[str, Tensor],
    task: _Task,
    claims: Claims,
) -> None:
    """Tokens compared with themselves by a causal model: there is nothing to learn."""
    sequence = sequences[task.path]
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
