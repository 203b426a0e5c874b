"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Ema"]

CHUNK_BYTES = 64 * 2**20


class Ema:
    """Shadow weights ``s <- decay * s + (1 - decay) * w`` after each applied update.

    The decay ramps up as ``(1 + n) / (10 + n)`` until it reaches its value, so that
    early averages forget the initial weights. Buffers are taken as they are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in named]
        self._weights = [weight.detach() for _, weight in named]
        self._shadow = [weight.detach().clone() for _, weight in named]
        self._num_updates = 0
        self._count: Tensor | None = None  # the same, where the device decides
        self._chunked: list[tuple[list[Tensor], list[Tensor]]] | None = None

    def update(self, refused: Tensor | None = None) -> None:
        """Move towards the weights; a refused step (device flag 1) does not move."""
        if refused is None:
            self._num_updates += 1
            step = 1 - min(self._decay, _ramp(self._num_updates))
            torch._foreach_lerp_(self._shadow, self._weights, step)
            return
        applied = 1 - refused
        if self._count is None:
            self._count = torch.full_like(applied, self._num_updates)
        self._count += applied  # a refused step does not move the ramp either
        amount = (1 - _ramp(self._count).clamp(max=self._decay)) * applied
        for shadow, weights in self._chunks():
            # A lerp with weights on the device is one kernel a tensor; this is three.
            moves = torch._foreach_sub(weights, shadow)
            torch._foreach_mul_(moves, amount.to(moves[0].device))
            torch._foreach_add_(shadow, moves)

    def _chunks(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Shadow and weights of one kind, little enough for a copy beside them."""
        if self._chunked is None:
            runs: dict[Any, list[tuple[list[Tensor], list[Tensor]]]] = {}
            room: dict[Any, int] = {}
            for shadow, weight in zip(self._shadow, self._weights, strict=True):
                kind = (weight.dtype, weight.device)
                room[kind] = room.get(kind, -1) - weight.nbytes
                if room[kind] < 0:
                    runs.setdefault(kind, []).append(([], []))
                    room[kind] = CHUNK_BYTES - weight.nbytes
                shadows, weights = runs[kind][-1]
                shadows.append(shadow)
                weights.append(weight)
            self._chunked = [run for found in runs.values() for run in found]
        return self._chunked

    def current_decay(self) -> float:
        """The decay of the next update; waits for a device that counts by itself."""
        done = self._num_updates if self._count is None else int(self._count)
        return min(self._decay, _ramp(done + 1))

    def reset(self) -> None:
        """Begin anew: the average is the weights as they are."""
        torch._foreach_copy_(self._shadow, self._weights)
        self._num_updates, self._count = 0, None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run a block with the averaged weights in the model, then swap back."""
        kept = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, self._shadow)
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, kept)

    def state_dict(self) -> dict[str, object]:
        """Shadow weights by parameter name, and the number of updates."""
        shadow = dict(zip(self._names, self._shadow, strict=True))
        num_updates = self._num_updates if self._count is None else int(self._count)
        return {"shadow": shadow, "num_updates": num_updates}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave."""
        shadow: Mapping[str, Tensor] = state["shadow"]  # type: ignore[assignment]
        for name, tensor in zip(self._names, self._shadow, strict=True):
            tensor.copy_(shadow[name])
        self._num_updates = int(state["num_updates"])  # type: ignore[call-overload]
        self._count = None


def _ramp(num_updates: Any) -> Any:
    return (1 + num_updates) / (10 + num_updates)
