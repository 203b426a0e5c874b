"""Random state of torch (CPU), numpy and ``random``: kept, seeded, isolated.

Reading data must neither consume nor be steered by the random numbers of training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["RandomStream", "preserved_rng", "seed_rng"]

_State = tuple[Any, Any, Any]


def _state() -> _State:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(state: _State) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave all three generators as they were, whatever the block draws."""
    state = _state()
    try:
        yield
    finally:
        _restore(state)


def seed_rng(seed: int) -> None:
    """Seed the three generators; accelerators' generators stay untouched.

    Args:
        seed: 0 <= seed < 2**64.
    """
    # torch.manual_seed would also reset the accelerators' generators.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


class RandomStream:
    """A separate stream of randomness, entered and left any number of times.

    Inside ``with stream:`` the generators continue where the stream was left; outside
    they are as if the stream did not exist.
    """

    def __init__(self, seed: int) -> None:
        with preserved_rng():
            seed_rng(seed)
            self._inner = _state()
        self._outer: _State | None = None

    def __enter__(self) -> RandomStream:
        self._outer = _state()
        _restore(self._inner)
        return self

    def __exit__(self, *exception: object) -> None:
        self._inner = _state()
        if self._outer is not None:
            _restore(self._outer)
        self._outer = None
