"""Histograms of weights and gradients, module by module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nbutils.errors import ConfigError
from nbutils.train.state import RunState
from nbutils.train.watchers.modules import label_parameters
from nbutils.train.watchers.watcher import Parts, Watcher

__all__ = ["HistogramMonitor"]

NUM_BINS = 64


class HistogramMonitor(Watcher):
    """Writes ``histogram`` events ``gradients/<module>`` and ``weights/<module>``.

    Equal bins from the least to the largest value; gradients are unscaled and not
    clipped, weights those after the update. A module whose values are not all finite
    has none. Each look waits for the device and reads every parameter, so it is off
    unless ``histogram_every_steps`` is set.

    Args:
        every_steps: Steps between two looks.
        num_bins: Bins of each histogram.

    Raises:
        ConfigError: ``every_steps`` or ``num_bins`` is below 1.
    """

    def __init__(self, every_steps: int, num_bins: int = NUM_BINS) -> None:
        if every_steps < 1 or num_bins < 1:
            raise ConfigError(
                [
                    f"every_steps is {every_steps} and num_bins {num_bins}; "
                    "both must be >= 1."
                ]
            )
        self._every = every_steps
        self._num_bins = num_bins
        self._labelled: list[tuple[str, nn.Parameter]] = []
        self._found: dict[str, tuple[list[float], list[int]]] = {}

    def attach(self, parts: Parts) -> None:
        super().attach(parts)
        self._labelled = label_parameters(
            parts.task.model, parts.task.loss, parts.optimizer
        )
        self._found = {}

    def on_fit_start(self, state: RunState) -> None:
        self._look_ahead(state)

    def on_step_end(self, state: RunState) -> None:
        if state.step < self.wake:
            return
        if self._found:
            found, self._found = self._found, {}
            for name, (edges, counts) in found.items():
                self.parts.events.write(
                    "histogram",
                    step=state.step,
                    name=name,
                    edges=edges,
                    counts=counts,
                )
        self._look_ahead(state)

    def before_update(self) -> None:
        """Count the gradients."""
        scale = self.parts.precision.scale
        factor = 1.0 if scale is None else 1.0 / float(scale.value)
        grads = [
            (label, p.grad.coalesce().values() if p.grad.is_sparse else p.grad)
            for label, p in self._labelled
            if p.grad is not None
        ]
        self._count("gradients", grads, factor)

    def after_update(self, norm: Tensor, refused: Tensor) -> None:
        """Count the weights."""
        self._count("weights", [(label, p) for label, p in self._labelled], 1.0)

    def _look_ahead(self, state: RunState) -> None:
        coming = state.step + 1
        if coming % self._every:
            self.wake = (coming // self._every + 1) * self._every - 1
            return
        self.parts.taps.update.watch_next(self)
        self.wake = coming

    @torch.no_grad()
    def _count(
        self, kind: str, labelled: Iterable[tuple[str, Tensor]], factor: float
    ) -> None:
        modules: dict[str, list[Tensor]] = {}
        for label, tensor in labelled:
            if tensor.numel():
                modules.setdefault(label, []).append(_real(tensor.detach()))
        for label, tensors in modules.items():
            found = histogram(tensors, self._num_bins)
            if found is not None:
                edges, counts = found
                self._found[f"{kind}/{label}"] = [e * factor for e in edges], counts


def histogram(
    tensors: list[Tensor], num_bins: int
) -> tuple[list[float], list[int]] | None:
    """Edges and counts of all values together; none if one is not finite."""
    home = tensors[0].device
    ends = [torch.stack(t.aminmax()).to(home, torch.float32) for t in tensors]
    found = torch.stack(ends).cpu()
    low, high = float(found[:, 0].min()), float(found[:, 1].max())
    if not torch.isfinite(found).all():
        return None
    if low == high:  # bins need a width
        width = abs(low) / 2 or 0.5
        low, high = low - width, high + width
    counts = torch.zeros(num_bins, dtype=torch.float64)
    for tensor in tensors:
        wide = tensor.float() if tensor.dtype != torch.float64 else tensor
        part = torch.histc(wide.reshape(-1), num_bins, low, high)
        counts += part.cpu().double()
    edges = torch.linspace(low, high, num_bins + 1, dtype=torch.float64)
    return edges.tolist(), [int(count) for count in counts.tolist()]


def _real(tensor: Tensor) -> Tensor:
    """Complex values as their two parts."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
