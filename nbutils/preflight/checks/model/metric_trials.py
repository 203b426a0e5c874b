"""Part of R4: what metrics give for outputs other than the model's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nbutils.data.batch import batch_size, tensors
from nbutils.preflight.frozen import seed_everything
from nbutils.preflight.probe import Probe
from nbutils.preflight.watch import LossCall
from nbutils.train.evaluate import evaluate

__all__ = ["Trials", "evaluated", "is_number", "split_of"]

NUM_DESCENTS = 40
ERRORS = (
    "mean squared error",
    "mean absolute error",
    "smooth absolute error",
    "Huber loss",
)


def split_of(probe: Probe) -> str:
    """Where metrics are tried."""
    return "val" if probe.data.has("val") else "train"


def is_number(value: Any) -> bool:
    """Whether a metric gave one number."""
    return isinstance(value, (int, float))


def evaluated(
    probe: Probe,
    metrics: Any,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    batch: Any = None,
) -> dict[str, Any]:
    """What the run's own evaluation gives for one batch under these metrics.

    Args:
        probe: The task under test.
        metrics: The metrics to try.
        forward: Gives outputs in place of the model.
        batch: By default the first one of the split.
    """
    probe.rewind()
    twin = copy.copy(probe.task)
    twin.model, twin.metrics = probe.model, metrics
    if forward is not None:
        twin.forward_function = forward
    if batch is None:
        batch = probe.data.batch(split_of(probe))
    return evaluate(
        twin,
        [copy.deepcopy(batch)],
        probe.precision,
        probe.device,
        loss_weights=probe.config.loss.loss_weights,
        seed=probe.seed,
    )


@dataclass
class Trials:
    """The model's outputs for one batch, and metrics on variants of them.

    Args:
        probe: The task under test.
    """

    probe: Probe
    batch: Any = None
    outputs: Any = None
    call: LossCall | None = None
    is_turned: bool = False
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        probe = self.probe
        self.batch = probe.data.batch(split_of(probe))
        probe.rewind()
        moved = probe.fresh(self.batch)
        with torch.no_grad(), probe.recording() as recorder:
            outputs = probe.forward(moved, training=False)
            probe.terms(outputs, moved)
        self.outputs = copy.deepcopy(outputs)
        floats = self._floats(self.outputs)
        alike = [
            c
            for c in recorder.losses
            if len(floats) == 1 and _is_same(c.outputs, floats[0])
        ]
        self.call = alike[0] if len(alike) == len(recorder.losses) == 1 else None
        if self.call is None and len(floats) == len(recorder.losses) == 1:
            given = recorder.losses[0]
            if floats[0].ndim == 3 and _is_same(given.outputs, floats[0].mT):
                self.call, self.is_turned = given, True

    @staticmethod
    def _floats(outputs: Any) -> list[Tensor]:
        return [t for _, t in tensors(outputs) if t.is_floating_point()]

    @property
    def size(self) -> int:
        """Samples of the batch."""
        return batch_size(self.batch)

    def measure(self, outputs: Any = None, batch: Any = None) -> dict[str, float]:
        """The metrics as numbers, for other outputs or another batch."""
        given = self.outputs if outputs is None else outputs
        values = evaluated(
            self.probe,
            self.probe.task.metrics,
            forward=lambda _model, _batch: copy.deepcopy(given),
            batch=batch,
        )
        return {name: float(v) for name, v in values.items() if is_number(v)}

    @property
    def has_numbers(self) -> bool:
        """Whether the outputs hold numbers that can be exchanged."""
        return bool(self._floats(self.outputs))

    def noise(self, number: int, *, is_wide: bool = False) -> Any:
        """Outputs of the same form with other values, of the same range or of any."""
        seed_everything(self.probe.seed + 1 + number)
        twin = copy.deepcopy(self.outputs)
        for tensor in self._floats(twin):
            wide = 3 * torch.randn_like(tensor)
            tensor.copy_(wide if is_wide else _noise_like(tensor))
        return twin

    def shuffled(self, number: int) -> Any:
        """The batch with its rows in another order, for the same outputs."""
        generator = torch.Generator().manual_seed(number)
        order = torch.randperm(self.size, generator=generator)
        twin = copy.deepcopy(self.batch)
        for _, tensor in tensors(twin):
            if tensor.ndim and tensor.shape[0] == self.size:
                tensor.copy_(tensor[order])
        return twin

    def moved(self) -> Any:
        """The batch with other values in every tensor, for the same outputs."""
        twin = copy.deepcopy(self.batch)
        for _, tensor in tensors(twin):
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.mul_(2).add_(1)
            elif tensor.numel() and tensor.dtype != torch.bool:
                tensor.copy_((tensor.max() + tensor.min()) - tensor)
        return twin

    def has_constant(self) -> bool:
        """Whether a tensor of the batch has one value: what is right is then moot."""
        return any(
            bool((tensor == tensor.flatten()[0]).all())
            for _, tensor in tensors(self.batch)
            if tensor.numel()
        )

    def perfect(self, strength: float = 10.0) -> Any | None:
        """Outputs that say what the targets say; none where that is not known."""
        call = self.call
        if call is None:
            return None
        answer = _answer(call, strength)
        if answer is None:
            return None
        twin = copy.deepcopy(self.outputs)
        self._floats(twin)[0].copy_(answer.mT if self.is_turned else answer)
        return twin

    def improved(self, number: int) -> tuple[Any, Any] | None:
        """Noise as outputs, and the same after a descent of the loss itself."""
        start = self.noise(number)
        twin = copy.deepcopy(start)
        leaves = self._floats(twin)
        moved = self.probe.fresh(self.batch)
        with torch.enable_grad():
            for leaf in leaves:
                leaf.requires_grad_(True)
            scale = max(float(leaf.detach().std()) for leaf in leaves)
            optimizer = torch.optim.Adam(leaves, lr=0.2 * scale + 1e-6)
            losses: list[float] = []
            for _ in range(NUM_DESCENTS):
                loss = self.probe.total(self.probe.terms(twin, moved))
                losses.append(float(loss.detach()))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        for leaf in leaves:
            leaf.requires_grad_(False)
        has_fallen = losses[-1] < losses[0] - 0.3 * abs(losses[0])
        return (start, twin) if has_fallen else None


def _is_same(given: Tensor, outputs: Tensor) -> bool:
    """Whether a loss was given the outputs as they are: not turned, cut or scaled."""
    if given.shape != outputs.shape:
        return False
    return torch.allclose(given.double(), outputs.double(), equal_nan=True)


def _noise_like(tensor: Tensor) -> Tensor:
    """Values that a metric may get: shares stay shares, and logits change sign."""
    kept = tensor.float()
    noise = torch.randn_like(kept)
    is_share = tensor.numel() > 0 and bool(((kept >= 0) & (kept <= 1)).all())
    if is_share and tensor.ndim > 1 and _sums_to_one(kept):
        return noise.mul(2).softmax(1).to(tensor.dtype)
    if is_share:
        return noise.mul(2).sigmoid().to(tensor.dtype)
    centre, spread = kept.mean(), kept.std() if kept.numel() > 1 else kept.abs().mean()
    return (noise * 2 * (spread + centre.abs() + 0.1)).to(tensor.dtype)


def _sums_to_one(shares: Tensor) -> bool:
    return bool(((shares.sum(1) - 1).abs() < 1e-3).all())


def _answer(call: LossCall, strength: float) -> Tensor | None:
    targets, outputs = call.targets, call.outputs
    if call.kind in ERRORS:
        return targets if targets.shape == outputs.shape else None
    if call.kind == "binary cross-entropy" and targets.shape == outputs.shape:
        return (targets.float() * 2 - 1) * strength
    if call.kind != "cross-entropy" or targets.is_floating_point():
        return None
    if outputs.ndim < 2 or call.num_ignored:
        return None
    hot = torch.zeros_like(outputs, dtype=torch.float32)
    return hot.scatter_(1, targets.unsqueeze(1), strength)
