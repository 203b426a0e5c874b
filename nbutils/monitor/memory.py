"""Memory of the process and of the device, in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["device_memory_bytes", "host_rss_bytes", "reset_peak_memory"]


def host_rss_bytes() -> int:
    """Resident memory of this process; about 25 us."""
    import psutil

    return psutil.Process().memory_info().rss


def device_memory_bytes(device: torch.device) -> dict[str, int]:
    """``allocated``, ``peak`` and ``total`` of an accelerator; empty on the CPU."""
    import torch

    if device.type == "cuda" and torch.cuda.is_available():
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "peak": torch.cuda.max_memory_allocated(device),
            "total": torch.cuda.get_device_properties(device).total_memory,
        }
    if device.type == "mps" and torch.backends.mps.is_available():
        return {"allocated": torch.mps.current_allocated_memory()}
    return {}


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak; nothing to do where there is no counter."""
    import torch

    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device)
