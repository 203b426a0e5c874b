"""Part of R4: whether a task predicts what comes next, told from its own loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nbutils.data.batch import tensors
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe

__all__ = [
    "Call",
    "NextStep",
    "by_place",
    "find_next_steps",
    "run_recorded",
    "sequences",
]

LOSSES = (
    functional.cross_entropy, functional.nll_loss, functional.mse_loss,
    functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss,
)  # fmt: skip
MIN_LENGTH = 4
MIN_PLACES = 8
ALIKE = 0.99
IGNORED = -100


@dataclass
class Call:
    """One call of a loss, with its graph."""

    outputs: Tensor
    targets: Tensor


@dataclass
class _Recorder(TorchFunctionMode):
    """Losses with their graph, and how often tokens are embedded."""

    found: list[Call] = field(default_factory=list)
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
            self.found.append(Call(given["input"], given["target"].detach()))
        if func is functional.embedding and args and isinstance(args[0], Tensor):
            self.embedded.append(args[0].detach())
        return func(*args, **kwargs)


@dataclass(frozen=True)
class NextStep:
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


def sequences(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """Tokens ``(B, T)`` and series ``(B, T)`` or ``(B, T, F)`` of a batch."""
    for path, tensor in tensors(batch):
        if tensor.dtype == torch.bool or tensor.ndim not in (2, 3):
            continue
        is_series = tensor.ndim == 2 or tensor.is_floating_point()
        if is_series and tensor.shape[1] >= MIN_LENGTH:
            yield path, tensor


def run_recorded(probe: Probe, batch: Any) -> tuple[list[Call], Tensor, list[Tensor]]:
    """Losses of a pass in eval mode, its total, and what was embedded."""
    seed_everything(probe.seed)
    calls = _Recorder()
    with torch.enable_grad(), calls:
        total = probe.loss(batch, training=False)
    return calls.found, total, calls.embedded


def find_next_steps(
    given: dict[str, Tensor],
    calls: list[Call],
    total: Tensor,
    embedded: list[Tensor],
) -> Iterator[NextStep]:
    """Loss calls whose targets are an input of the batch, some places further on."""
    for number, call in enumerate(calls):
        for path, sequence in given.items():
            found = _shift(sequence, call)
            if found is None:
                continue
            used = _used(call, total, found[1])
            if used is not None and bool(used.any()):
                tokens = [e for e in embedded if _holds(e, sequence)]
                yield NextStep(path, found[0], number, used, len(tokens))


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


def _shift(sequence: Tensor, call: Call) -> tuple[int, Tensor] | None:
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


def _used(call: Call, total: Tensor, targets: Tensor) -> Tensor | None:
    """Places ``(B, T)`` whose outputs get a gradient from the loss."""
    if not call.outputs.requires_grad:
        return None
    grad = torch.autograd.grad(
        total, call.outputs, retain_graph=True, allow_unused=True
    )[0]
    return None if grad is None else by_place(grad, targets).abs().sum(-1) > 0


def by_place(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs of a loss call as ``(B, T, ...)`` flattened to three axes."""
    size, width = targets.shape[:2]
    is_classes_second = outputs.ndim == 3 and outputs.shape[2] == width
    is_flat = outputs.shape[0] == size * width
    if is_classes_second and not is_flat and not targets.is_floating_point():
        outputs = outputs.transpose(1, 2)
    return outputs.reshape(size, width, -1)
