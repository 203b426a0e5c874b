"""Every random generator a run draws from, as plain loadable values."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ["collect_rng", "restore_rng", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def collect_rng() -> dict[str, Any]:
    """The state of all global generators; of CUDA's only if this process uses it."""
    legacy: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = legacy
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss],
        "numpy_cached": float(cached),
    }
    if torch.cuda.is_initialized():  # else nothing was drawn there
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Restore what :func:`collect_rng` gave; devices that are absent are left."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss = state["numpy"]
    legacy = (name, keys.numpy().astype(np.uint32), position, has_gauss)
    np.random.set_state((*legacy, state["numpy_cached"]))
    torch.set_rng_state(state["torch"].cpu())
    saved = state.get("cuda", ())
    for device in range(min(torch.cuda.device_count(), len(saved))):
        torch.cuda.set_rng_state(saved[device].cpu(), device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
