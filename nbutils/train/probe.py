"""Whether weights move and stay finite: one number per tensor, once a pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["WeightProbe"]

SAMPLED = 256


class WeightProbe:
    """Norms of all weights and buffers, read with one wait.

    Args:
        model: Whose tensors are watched for NaN and infinity.
        optimizer: Whose parameters should move.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._moving = [
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if _can_norm(parameter)
        ]
        self._odd = set(self._bad_names())
        self._norms = _norms(self._moving)
        self._sample = self._take_sample()

    def movement(self) -> float | None:
        """Relative change of the norms since the last call; 0 if nothing moved at all.

        Equal norms may hide a move: then some elements of each tensor decide.
        """
        if not self._moving:
            return None
        before, self._norms = self._norms, _norms(self._moving)
        size = float(before.norm())
        moved = float((self._norms - before).norm())
        if moved or size != size:
            self._sample = None
            return moved / size if size > 0 else 1.0
        earlier, sample = self._sample, self._take_sample()
        self._sample = sample
        if earlier is None or sample is None:
            return None
        return 0.0 if torch.equal(earlier, sample) else 1e-12

    def nonfinite_names(self) -> list[str]:
        """Parameters and buffers with NaN or infinity that they did not begin with."""
        return [name for name in self._bad_names() if name not in self._odd]

    def _bad_names(self) -> list[str]:
        named = [
            (name, tensor)
            for name, tensor in [
                *self._model.named_parameters(),
                *self._model.named_buffers(),
            ]
            if _can_norm(tensor)
        ]
        is_good = _norms([tensor for _, tensor in named]).isfinite().tolist()
        suspects = [pair for pair, good in zip(named, is_good, strict=True) if not good]
        # a sum of large squares may overflow: look again
        return [n for n, t in suspects if not bool(torch.isfinite(t).all())]

    def _take_sample(self) -> Tensor | None:
        if not self._moving:
            return None
        with torch.no_grad():
            parts = [
                p.reshape(-1)[:: max(p.numel() // SAMPLED, 1)][: 2 * SAMPLED].float()
                for p in self._moving
            ]
            device = parts[0].device
            return torch.cat([part.to(device) for part in parts]).cpu()


def _can_norm(tensor: Tensor) -> bool:
    is_plain = tensor.layout == torch.strided and not tensor.is_meta
    return is_plain and tensor.is_floating_point() and tensor.numel() > 0


@torch.no_grad()
def _norms(tensors: list[Tensor]) -> Tensor:
    """2-norm of each, on the host."""
    if not tensors:
        return torch.zeros(0)
    wide = [
        t if t.dtype in (torch.float32, torch.float64) else t.float() for t in tensors
    ]
    norms = torch._foreach_norm(wide)
    device = norms[0].device
    return torch.stack([norm.to(device, torch.float32) for norm in norms]).cpu()
