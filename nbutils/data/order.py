"""The order of an epoch, as a pure function of (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["batch_bounds", "count_batches", "epoch_order", "mix"]

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """One well-spread 64-bit seed from several integers (splitmix64 rounds).

    Example:
        >>> mix(0, 1) != mix(1, 0)
        True
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def epoch_order(num_samples: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """Sample indices of one epoch, in the order in which they are visited.

    Example:
        >>> epoch_order(3, seed=0, epoch=5, shuffle=False)
        tensor([0, 1, 2])
    """
    if not shuffle:
        return torch.arange(num_samples)
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def count_batches(num_samples: int, batch_size: int, drop_last: bool) -> int:
    """Batches per epoch; the smaller last one counts unless it is dropped."""
    if drop_last:
        return num_samples // batch_size
    return -(-num_samples // batch_size)


def batch_bounds(number: int, batch_size: int, num_samples: int) -> tuple[int, int]:
    """Start and end of batch ``number`` within the order of the epoch."""
    start = number * batch_size
    return start, min(start + batch_size, num_samples)
