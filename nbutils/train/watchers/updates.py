"""What one update does to each module: measured on the device, read later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbutils.train.watchers.modules import root_sums, tensor_norms

__all__ = ["UpdateProbe", "UpdateReading"]

MAX_ELEMENTS = 2**24  # copied for one measurement: 64 MiB in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReading:
    """One update, on the host.

    Attributes:
        norm: Of all gradients, as the step reports it.
        shares: Of the squared gradient norm, by module; they sum to 1.
        ratios: Norm of the update over the norm of the weights before, by module;
            none where the weights were all 0.
    """

    norm: float
    is_refused: bool
    shares: dict[str, float]
    ratios: dict[str, float]


class UpdateProbe:
    """Norms of gradients, weights and their change around one update.

    Weights are copied for that. Of models above 16 M parameters, only evenly spread
    elements of the large tensors are: ratios are then estimates, shares stay exact.

    Args:
        labelled: Parameters with the module they are counted to.
    """

    def __init__(self, labelled: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._labelled = list(labelled)
        self._limit = _limit_of([p.numel() for _, p in labelled])
        self._labels: list[str] = []
        self._views: list[Tensor] = []
        self._before: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._row: Tensor | None = None

    @torch.no_grad()
    def begin(self) -> None:
        """Take the gradients' norms, and the weights as they are."""
        active = [(label, p) for label, p in self._labelled if p.grad is not None]
        self._labels = [label for label, _ in active]
        self._norms = tensor_norms([_gradient(p) for _, p in active])
        self._views = [_sample(p.detach(), self._limit) for _, p in active]
        self._before = [view.clone() for view in self._views]

    @torch.no_grad()
    def end(self, norm: Tensor, refused: Tensor) -> None:
        """Take the weights' change; everything goes into one row of numbers."""
        weights = tensor_norms(self._before)
        torch._foreach_sub_(self._before, self._views)
        moved = tensor_norms(self._before)
        parts = [norm, refused, *self._norms, *weights, *moved]
        self.drop()
        home = norm.device
        fp32 = torch.float32
        row = torch.stack([part.to(home, fp32, non_blocking=True) for part in parts])
        # Into pinned memory, behind the work that is queued; MPS has none, so there
        # the row is copied when it is read.
        is_late = home.type == "mps"
        self._row = row if is_late else row.to("cpu", non_blocking=True)

    def drop(self) -> None:
        """Let go of what an update that did not come to its end has left."""
        self._norms, self._before, self._views = [], [], []

    def read(self) -> UpdateReading:
        """The numbers; only once the device is done with that update."""
        assert self._row is not None  # noqa: S101 (read after end)
        norm, refused, *rest = self._row.tolist()
        self._row = None
        size = len(self._labels)
        grads = root_sums(self._labels, rest[:size])
        weights = root_sums(self._labels, rest[size : 2 * size])
        moved = root_sums(self._labels, rest[2 * size :])
        total = math.hypot(*grads.values())
        return UpdateReading(
            norm=norm,
            is_refused=bool(refused),
            shares={n: (g / total) ** 2 for n, g in grads.items()} if total else {},
            ratios={n: moved[n] / w for n, w in weights.items() if w > 0},
        )


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient's values; of a sparse one, each index once."""
    grad = parameter.grad
    assert grad is not None  # noqa: S101 (the caller asked)
    return grad.coalesce().values() if grad.is_sparse else grad.detach()


def _limit_of(sizes: Sequence[int]) -> int:
    """Elements that each tensor may give, so that all give at most 2**24.

    Each may give 1024, however many there are.
    """
    limit = max(sizes, default=1)
    if sum(sizes) <= MAX_ELEMENTS:
        return limit
    limit = 2 ** (limit.bit_length())
    while limit > 1024 and sum(min(size, limit) for size in sizes) > MAX_ELEMENTS:
        limit //= 2
    return limit


def _sample(tensor: Tensor, limit: int) -> Tensor:
    """The tensor, or a view of at most ``limit`` of its elements, evenly spread."""
    if tensor.numel() <= limit:
        return tensor
    stride = -(-tensor.numel() // limit)
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    if not tensor.is_contiguous():
        return tensor[:: min(stride, len(tensor))]
    while math.gcd(stride, tensor.shape[-1]) > 1:  # else always the same columns
        stride += 1
    return tensor.view(-1)[::stride]
